//! Which line of a tool's output says what went wrong.
//!
//! Tools say so once, early, and then report on each other's failures: the compiler's line is followed by make's, npm's and
//! a hundred of others'. So lines have a rank, and of the highest the first counts. `corpus.txt` holds outputs of real tools with
//! the line that a person would look for; the tests hold this against it, and against what the tools on this machine say.

use crate::progress::printable;

/// Says itself what is wrong.
const PRECISE: u8 = 3;
/// Says what is wrong, if nobody else does.
const GENERAL: u8 = 2;
/// Says that something else went wrong.
const ECHO: u8 = 1;
/// Says nothing.
const NONE: u8 = 0;

/// Lines that report on a failure that was told before.
const ECHOES: [&str; 13] = [
    "clang: error: linker command failed",
    "collect2: error: ld returned",
    "cc1: all warnings being treated as errors",
    "cc1: some warnings being treated as errors",
    "error: could not compile",
    "failed with exit status",
    "error: build failed",
    "error Command failed",
    "npm error code ",
    "npm ERR! code ",
    "Failed with errors in",
    "npm error Lifecycle script",
    "ELIFECYCLE",
];

/// Parts of lines that say what is wrong wherever they stand.
const PARTS: [&str; 25] = [
    ": error: ",
    ": error TS",
    " - error TS",
    ": fatal error: ",
    "configure: error: ",
    "undefined reference to ",
    "undefined symbol",
    "multiple definition of ",
    "cannot find -l",
    "*** No rule to make target",
    "*** missing separator",
    ": command not found",
    ": cannot find package ",
    ": no required module provides package ",
    ": import cycle not allowed",
    "build constraints exclude all Go files",
    "signal: killed",
    "No space left on device",
    "no space left on device",
    "annot allocate memory",
    "heap out of memory",
    "✘ [ERROR]",
    "Module not found: Error:",
    "Segmentation fault",
    "Usage Error: ",
];

/// Begins of lines that say what is wrong.
const BEGINS: [&str; 13] = [
    "ERROR in ",
    "FATAL ERROR: ",
    "error[E",
    "fatal error: ",
    "fatal: ",
    "panic: ",
    "CMake Error",
    "Internal Error: ",
    "Killed",
    "ERROR: ",
    "cgo: ",
    "error occurred in cc-rs: ",
    "Undefined symbols for architecture",
];

/// What the go tool says of its work, not of failures.
const GO_NEWS: [&str; 9] =
    ["downloading", "finding", "found", "added", "upgraded", "creating", "extracting", "to add module", "warning"];

/// Yarn's codes of failures; others are news and warnings.
const YARN_FAILURES: [&str; 33] = [
    "YN0001", "YN0009", "YN0010", "YN0011", "YN0012", "YN0014", "YN0015", "YN0016", "YN0018", "YN0020", "YN0021", "YN0022",
    "YN0027", "YN0028", "YN0030", "YN0033", "YN0034", "YN0035", "YN0041", "YN0045", "YN0046", "YN0047", "YN0055", "YN0056",
    "YN0057", "YN0058", "YN0064", "YN0066", "YN0067", "YN0078", "YN0080", "YN0081", "YN0082",
];

/// How much a line tells: the higher, the more; 0 for one that tells nothing of a failure.
pub fn rank(line: &str) -> u8 {
    if line.contains('\u{1b}') {
        return rank(&printable(line));
    }
    let line = line.trim();
    let lower = line.get(..9).map(str::to_ascii_lowercase).unwrap_or_default();
    if lower.starts_with("npm warn") || lower.starts_with("warning") || line.ends_with("(ignored)") || is_warning(line) {
        return NONE;
    }
    if ECHOES.iter().any(|echo| line.contains(echo)) {
        return ECHO;
    }
    if BEGINS.iter().any(|begin| line.starts_with(begin))
        || PARTS.iter().any(|part| line.contains(part))
        || [go, yarn, make, shell, exception].iter().any(|tells| tells(line))
    {
        return PRECISE;
    }
    if make_failed(line) {
        return ECHO;
    }
    npm(line).unwrap_or(if line.starts_with("error: ") || line.starts_with("error ") { GENERAL } else { NONE })
}

/// A compiler's `file:line: warning: …`, which may well go on with the word error.
fn is_warning(line: &str) -> bool {
    line.find(": warning: ").is_some_and(|at| line.find(": error: ").is_none_or(|error| at < error))
}

/// `main.go:12:3: …`, `x.go:7: …`, and what `go: …` says that is no news.
fn go(line: &str) -> bool {
    if let Some(said) = line.strip_prefix("go: ") {
        return !GO_NEWS.iter().any(|news| said.starts_with(news));
    }
    line.split_once(".go:").is_some_and(|(file, rest)| {
        let number = rest.split_once(':').map_or("", |(number, _)| number);
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && !file.starts_with(['\t', ' '])
    })
}

/// `➤ YN0035: │ …`, but not the lines of a diff.
fn yarn(line: &str) -> bool {
    let Some((code, text)) = line.strip_prefix("➤ ").and_then(|line| line.split_once(": ")) else { return false };
    let text = text.trim_start_matches(['│', ' ']);
    YARN_FAILURES.contains(&code) && !text.is_empty() && !text.starts_with(['+', '-', '@'])
}

/// `make: gcc: No such file or directory`, `Makefile:3: *** …`; not `make: *** [x] Error 1`, which others have explained.
fn make(line: &str) -> bool {
    if make_failed(line) {
        return false;
    }
    is_make(line) && (line.ends_with("No such file or directory") || line.ends_with("Permission denied"))
        || line.split_once(": *** ").is_some_and(|(_, text)| text.ends_with("Stop."))
}

fn make_failed(line: &str) -> bool {
    line.split_once("*** [").is_some_and(|(name, rest)| is_make(name) && rest.contains("] "))
}

fn is_make(line: &str) -> bool {
    ["make: ", "make[", "gmake: ", "gmake["].iter().any(|name| line.starts_with(name))
}

/// `/bin/sh: 1: frob: not found`.
fn shell(line: &str) -> bool {
    line.contains("sh: ") && line.ends_with(": not found")
}

/// An exception of JavaScript or Python: `TypeError: …`, `Error [ERR_X]: …`.
fn exception(line: &str) -> bool {
    let line = line.strip_prefix("Uncaught ").unwrap_or(line);
    let Some((name, _)) = line.split_once(": ") else { return false };
    let name = name.split_once(" [").map_or(name, |(name, _)| name);
    name.ends_with("Error") && name.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c))
}

/// npm's own lines: the first that says more than a code, a number or a path.
fn npm(line: &str) -> Option<u8> {
    let text = line.strip_prefix("npm error").or_else(|| line.strip_prefix("npm ERR!"))?.trim();
    let echo = ["errno ", "syscall ", "path ", "command ", "workspace ", "location ", "A complete log", "signal "];
    Some(match text {
        "" | "404" => NONE,
        text if echo.iter().any(|word| text.starts_with(word)) => ECHO,
        _ => GENERAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    /// The first of the lines of the highest rank, as [`crate::logs::StepLog`] finds it.
    fn first<'a>(lines: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let mut best: Option<(u8, &str)> = None;
        for line in lines {
            let rank = rank(line);
            if rank > best.map_or(0, |(rank, _)| rank) {
                best = Some((rank, line));
            }
        }
        best.map(|(_, line)| line)
    }

    #[test]
    fn of_every_output_in_the_corpus_the_marked_line_is_found() {
        let mut count = 0;
        let mut wrong = String::new();
        for output in include_str!("corpus.txt").replace("\\e", "\u{1b}").split("\n== ").skip(1) {
            let (name, text) = output.split_once('\n').unwrap();
            let marked = text.lines().find_map(|line| line.strip_prefix("» "));
            let found = first(text.lines().map(|line| line.strip_prefix("» ").unwrap_or(line)));
            if found != marked {
                wrong += &format!("{name}: {found:?} instead of {marked:?}\n");
            }
            count += 1;
        }
        assert!(count > 30, "the corpus was not read: {count}");
        assert!(wrong.is_empty(), "{wrong}");
    }

    /// What a tool really says in a folder with these files; none where the tool is not here.
    fn real(files: &[(&str, &str)], program: &str, args: &[&str]) -> Option<String> {
        if which::which(program).is_err() {
            eprintln!("passed over: there is no {program}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("a folder ").tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut command = Command::new(program);
        command.args(args).current_dir(folder.path()).env("LC_ALL", "C").env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
        let output =
            command.env("npm_config_offline", "true").env("npm_config_cache", folder.path().join("npm")).output().unwrap();
        assert!(!output.status.success());
        Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }

    #[track_caller]
    fn assert_found(output: Option<String>, part: &str) {
        let Some(output) = output else { return };
        let found = first(output.lines());
        assert!(found.is_some_and(|line| line.contains(part)), "{found:?} has no \"{part}\"; all was:\n{output}");
    }

    #[test]
    fn what_the_c_tools_here_say_is_understood() {
        let broken = [("a.c", "int main(void)\n{\n    return nowhere;\n}\n"), ("Makefile", "all: a\n")];
        assert_found(real(&broken, "make", &[]), "'nowhere' undeclared");
        let unlinked = [("a.c", "int far(void);\nint main(void) { return far(); }\n"), ("Makefile", "all: a\n")];
        assert_found(real(&unlinked, "make", &[]), "far");
        assert_found(real(&[("a.c", "#include \"missing.h\"\n")], "cc", &["-c", "a.c"]), "missing.h");
        assert_found(real(&[("Makefile", "all: missing.o\n")], "make", &[]), "missing.o");
        assert_found(real(&[("Makefile", "all:\n\tfrobnicate --now | cat -\n\texit 3\n")], "make", &[]), "frobnicate: ");
    }

    #[test]
    fn what_the_go_tool_here_says_is_understood() {
        let module = ("go.mod", "module x\ngo 1.21\n");
        let broken = ("main.go", "package main\n\nfunc main() {\n\tnowhere()\n}\n");
        assert_found(real(&[module, broken], "go", &["build", "."]), "undefined: nowhere");
        let missing = ("main.go", "package main\n\nimport _ \"example.org/no/such\"\n\nfunc main() {}\n");
        assert_found(real(&[module, missing], "go", &["build", "."]), "example.org/no/such");
    }

    #[test]
    fn what_npm_and_node_here_say_is_understood() {
        let package = ("package.json", "{\"name\":\"x\",\"version\":\"1.0.0\",\"scripts\":{\"build\":\"node build.js\"}}");
        let script = ("build.js", "require('nowhere');\n");
        assert_found(real(&[package, script], "npm", &["run", "build"]), "Cannot find module 'nowhere'");
        assert_found(real(&[package], "npm", &["ci"]), "npm ci");
        assert_found(real(&[package], "npm", &["run", "nothing"]), "nothing");
    }

    #[test]
    fn what_cargo_here_says_is_understood() {
        let manifest = ("Cargo.toml", "[package]\nname = \"x\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n");
        let broken = ("src/main.rs", "fn main() {\n    nowhere();\n}\n");
        assert_found(real(&[manifest, broken], "cargo", &["build", "--offline"]), "cannot find function `nowhere`");
        assert_found(real(&[manifest, broken], "cargo", &["build", "--offline", "-p", "other"]), "other");
    }
}
