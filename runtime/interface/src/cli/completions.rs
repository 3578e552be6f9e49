//! Functions that complete the words of `dkm` in shells. They ask `dkm complete`, since only that knows the services.

use super::dkm::Shell;

const BASH: &str = r#"# dkm for bash. In one file: ~/.local/share/bash-completion/completions/dkm
_dkm() {
    local dkm="${COMP_WORDS[0]/#\~/$HOME}" line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("$dkm" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o bashdefault -o default -F _dkm dkm
"#;

const ZSH: &str = r#"#compdef dkm
# dkm for zsh. As a file named _dkm in a folder of fpath
_dkm() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]/#\~/$HOME}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( $#found )); then _describe -V dkm found; else _files; fi
}
if [[ $funcstack[1] == _dkm ]]; then _dkm "$@"; else compdef _dkm dkm; fi
"#;

const FISH: &str = r#"# dkm for fish. In one file: ~/.config/fish/completions/dkm.fish
function __dkm_complete
    set -l words (commandline -opc)
    $words[1] complete -- $words[2..] (commandline -ct) 2>/dev/null
end
complete -c dkm -f -a '(__dkm_complete)'
complete -c dkm -l home -r -F
complete -c dkm -l socket -r -F
"#;

/// The function for a shell.
#[must_use]
pub fn function(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    }
}
