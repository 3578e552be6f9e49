use super::*;

const CARBON: &str = r#"
    name = "go-carbon"
    types = ["all", "backend-agent"]
    command = ["{{ bundle }}/bin/go-carbon", "-daemon=false"]
    stop-signal = "USR2"
    stop-timeout-s = 60
    ports = [{ name = "carbon", port = "{{ ports.carbon }}", protocols = ["tcp", "udp"] }, { name = "x", port = 7 }]
    probes = [{ tcp = "127.0.0.1:{{ ports.carbon }}" }, { http = "http://127.0.0.1:1/robots.txt" }]
    config = [{ template = "conf/go-carbon.conf.j2", to = "conf/go-carbon.conf" }]
    folders = ["storage/whisper"]
"#;

#[test]
fn reads_the_recipe_form_and_round_trips_in_both_formats() {
    let service: Service = toml::from_str(CARBON).unwrap();
    service.validate().unwrap();
    assert_eq!(service.stop_signal.to_string(), "SIGUSR2");
    assert_eq!(service.ports[1].number().unwrap(), 7);
    assert_eq!(toml::from_str::<Service>(&toml::to_string(&service).unwrap()).unwrap(), service);
    assert_eq!(serde_json::from_str::<Service>(&serde_json::to_string(&service).unwrap()).unwrap(), service);
}

#[test]
fn every_template_is_rendered() {
    let service: Service = toml::from_str(CARBON).unwrap();
    let rendered = service.map_strings(|text| Ok(text.replace("{{ ports.carbon }}", "2003"))).unwrap();
    assert_eq!(rendered.ports[0].number().unwrap(), 2003);
    assert_eq!(rendered.probes[0].question, Question::Tcp("127.0.0.1:2003".into()));
    assert!(service.ports[0].number().is_err(), "an unrendered port is not a number");
}

#[test]
fn unknown_keys_types_and_signals_are_refused() {
    for bad in ["comand = []", "types = [\"everything\"]", "stop-signal = \"SIGNAL\"", "probes = [{ ftp = \"x\" }]"] {
        let text = format!("name = \"x\"\ncommand = [\"/bin/x\"]\n{bad}\n");
        assert!(toml::from_str::<Service>(&text).is_err(), "{bad} was accepted");
    }
}

#[test]
fn new_keys_are_read_and_round_trip() {
    let text = r#"
        name = "x"
        command = ["/bin/x"]
        environment-file = "conf/x.env"
        umask = "027"
        limits = { nofile = "1024:4096", core = 0 }
        requires = ["y"]
        restart = "on-failure"
        restart-pause-s = 0.25
        probes = [{ http = "http://127.0.0.1:1/", status = "200-204" }, { exec = ["/bin/true"], period-s = 2 },
                  { unix = "/run/x" }, { log = "up and running" }, { notify = true }]
        health = { probe = { tcp = "127.0.0.1:1", timeout-s = 1 }, period-s = 5, action = "report" }
        enabled = false
    "#;
    let service: Service = toml::from_str(text).unwrap();
    service.validate().unwrap();
    assert_eq!(service.environment_file, ["conf/x.env"]);
    assert_eq!(service.health.as_ref().unwrap().threshold, 3);
    assert_eq!(toml::from_str::<Service>(&toml::to_string(&service).unwrap()).unwrap(), service);
    assert_eq!(serde_json::from_str::<Service>(&serde_json::to_string(&service).unwrap()).unwrap(), service);
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for bad in [
        "probes = [{}]",
        "probes = [{ tcp = \"a:1\", unix = \"/x\" }]",
        "probes = [{ tcp = \"a:1\", status = \"200\" }]",
        "probes = [{ http = \"http://a:1\", status = \"2xx\" }]",
        "probes = [{ notify = true, timeout-s = 1 }]",
        "limits = { nofiles = 1 }",
        "umask = \"999\"",
        "restart = \"sometimes\"",
        "after = [\"x\"]",
        "health = { probe = { tcp = \"a:1\" }, threshold = 0 }",
        "restart-pause-s = 60",
    ] {
        let text = format!("name = \"x\"\ncommand = [\"/bin/x\"]\n{bad}\n");
        assert!(toml::from_str::<Service>(&text).map_or(true, |service| service.validate().is_err()), "{bad} was accepted");
    }
}

#[test]
fn patterns() {
    for (pattern, yes) in
        [("*", true), ("go-*", true), ("*bon", true), ("g?-c*n", true), ("go", false), ("*x*", false), ("", false)]
    {
        assert_eq!(matches(pattern.as_bytes(), b"go-carbon"), yes, "{pattern}");
    }
    assert!(!matches("*a".repeat(200).as_bytes(), "a".repeat(64).as_bytes()));
}

#[test]
fn paths_that_climb_out_and_odd_names_are_refused() {
    for bad in ["name = \"a/b\"", "name = \"all\"", "name = \"x\"\nfolders = [\"../x\"]", "name = \"x\"\nfolders = [\"/x\"]"] {
        let service: Service = toml::from_str(&format!("command = [\"/bin/x\"]\n{bad}\n")).unwrap();
        assert!(service.validate().is_err(), "{bad} was accepted");
    }
}
