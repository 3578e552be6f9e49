//! `dkmadmin reset-password`: by the service's own command, as its definition says.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::bench::{Bench, shell, text};

/// A service whose command keeps what it is told, with its folder and a variable.
fn services(script: &str) -> Vec<Value> {
    let mut grafana = shell("grafana", "exec sleep 1000");
    grafana["environment"] = json!({"MARK": "a b"});
    grafana["directory"] = json!("{{ data }}/conf");
    grafana["reset-password"] = json!({
        "command": ["/bin/sh", "-c", script, "{{ data }}/told"],
        "secret": "conf/secrets/grafana-admin-password",
        "once-there": "storage/grafana.db",
        "user": "admin",
    });
    vec![shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000"), grafana]
}

fn reset(bench: &Bench, more: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(bench.data().join("bin/dkmadmin"));
    command.arg("reset-password").args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn secret(bench: &Bench) -> String {
    let path = bench.data().join("conf/secrets/grafana-admin-password");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(!bench.data().join("conf/secrets/grafana-admin-password.next").exists());
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_new_password_is_given_to_the_service_kept_and_shown_once() {
    let bench =
        Bench::installed(&services("read -r line && echo \"$line $MARK $PWD\" > \"$0\" && echo x >> ../storage/grafana.db"));
    let first = secret(&bench);
    let told = bench.data().join("told");
    // It has not taken the first one yet, and will take what is in the file.
    let output = reset(&bench, &[], "");
    assert!(output.status.success() && text(&output).contains("when it first starts"), "{}", text(&output));
    let second = secret(&bench);
    assert!(second != first && second.len() == 20 && !told.exists());
    fs::write(bench.data().join("storage/grafana.db"), "").unwrap();
    for names in [&[][..], &["grafana"], &["graf*"]] {
        let output = reset(&bench, names, "");
        let now = secret(&bench);
        assert_eq!(text(&output).matches(&now).count(), 1, "{}", text(&output));
        assert_eq!(fs::read_to_string(&told).unwrap(), format!("{now} a b {}\n", bench.data().join("conf").display()));
    }
    let output = reset(&bench, &["--stdin"], "correct horse\nbattery\n");
    assert!(output.status.success() && !text(&output).contains("horse"), "{}", text(&output));
    assert_eq!(secret(&bench), "correct horse");
    assert!(fs::read_to_string(&told).unwrap().starts_with("correct horse a b"));
}

#[test]
fn a_command_that_fails_leaves_the_old_password() {
    let bench = Bench::installed(&services("read -r line; echo \"no such user; $line\"; exit 3"));
    fs::write(bench.data().join("storage/grafana.db"), "").unwrap();
    let before = secret(&bench);
    let output = reset(&bench, &["--stdin"], "correct horse\n");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("it is as before") && said.contains("no such user; …") && !said.contains("horse"), "{said}");
    assert_eq!(secret(&bench), before);
    for (more, stdin, wanted) in [
        (&["--stdin"][..], "short\n", "at least 8 characters"),
        (&["--stdin"], "with\ta tab\n", "no control characters"),
        (&["go-carbon"], "", "go-carbon has no password that can be set"),
        (&["nobody"], "", "nobody has no password that can be set"),
    ] {
        let output = reset(&bench, more, stdin);
        assert!(!output.status.success() && text(&output).contains(wanted), "{more:?}: {}", text(&output));
        assert_eq!(secret(&bench), before);
    }
}

#[test]
fn a_command_that_does_nothing_is_not_believed() {
    let bench = Bench::installed(&services("cat > /dev/null; echo changed successfully"));
    fs::write(bench.data().join("storage/grafana.db"), "x").unwrap();
    let before = secret(&bench);
    let output = reset(&bench, &[], "");
    assert!(
        !output.status.success() && text(&output).contains("nothing in storage/grafana.db has changed"),
        "{}",
        text(&output)
    );
    assert_eq!(secret(&bench), before);
}

#[test]
fn root_does_not_do_it_for_others() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bench = Bench::installed(&services("cat > \"$0\""));
    assert!(Command::new("chown").args(["-Rh", "12345"]).arg(bench.data()).status().unwrap().success());
    let output = reset(&bench, &[], "");
    assert!(!output.status.success() && text(&output).contains("do it as its owner"), "{}", text(&output));
}
