//! Servers that refuse, fail, lie, stall and die: the worst they can do is to be warned of.
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

use super::web::Web;
use super::*;
use crate::fetch::tests::server::Answer;

/// Tries again soon, and bears with a busy machine.
fn quick() -> Patience {
    Patience { pause: Duration::from_millis(5), ..Patience::default() }
}

/// Patience for servers that never answer.
fn short() -> Patience {
    let ms = Duration::from_millis;
    Patience { stall: ms(400), slowest: 4_000_000, ..quick() }
}

/// A web folder that has the result `1`.
fn filled(bytes: &[u8]) -> Web {
    let web = Web::start(|_| None);
    let client = Client::open(&web.place(), Mode::ReadWrite);
    assert_eq!(client.put(&name("1"), bytes).done, 1, "{:?}", client.said());
    web
}

#[test]
fn a_web_folder_serves_as_well_and_records_come_last() {
    let bytes = noise(1, 6 * BLOCK);
    let web = filled(&bytes);
    assert!(Client::open(&web.place(), Mode::ReadOnly).get(&name("1")).unwrap() == bytes);
    let puts: Vec<_> = web.requests().into_iter().filter(|request| request.method == "PUT").collect();
    assert!(puts.last().unwrap().path.contains("/a%20b/cache/v1/results/thing/collect/"), "{:?}", puts.last());
    // Two writers make the same folders at the same time.
    std::thread::scope(|scope| {
        for key in ["2", "3"] {
            let web = &web;
            scope.spawn(move || {
                let client = Client::open(&web.place(), Mode::ReadWrite);
                assert_eq!(client.put(&name(key), &noise(7, 3 * BLOCK)).done, 1, "{:?}", client.said());
            });
        }
    });
    let found = Client::open(&web.place(), Mode::ReadOnly).share.find(&[name("2"), name("3")]);
    assert!(found.iter().all(Option::is_some));
}

#[test]
fn read_only_sends_nothing_but_questions() {
    let web = filled(b"x").again(|_| None);
    let client = Client::open(&web.place(), Mode::ReadOnly);
    assert_eq!(client.get(&name("1")).unwrap(), b"x");
    assert_eq!(client.put(&name("2"), b"y"), Uploads::default());
    let methods: Vec<_> = web.requests().into_iter().map(|request| request.method).collect();
    assert!(!methods.is_empty() && methods.iter().all(|method| method == "GET"), "{methods:?}");
}

/// Every way in which a server can be of no use, with what is said then.
#[test]
fn a_useless_server_is_given_up_with_one_warning() {
    type Fault = fn() -> Answer;
    let faults: [(Fault, &str); 7] = [
        (|| Answer::new("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>"), "HTTP 403 Forbidden (AccessDenied)"),
        (|| Answer::new("401 Unauthorized", b"who are you"), "HTTP 401 Unauthorized"),
        (|| Answer::new("400 Bad Request", b"what"), "HTTP 400 Bad Request"),
        (Answer::silence, "too slow"),
        (|| Answer::ok(b"").claim(40).stall(), "too slow"),
        (|| Answer::ok(&[b'x'; 5000]).drip(), "too slow"),
        (|| Answer::unmeasured(b""), "not used any more"),
    ];
    for (fault, why) in faults {
        let web = Web::start(move |_| Some(fault()));
        let patience = if why == "too slow" { short() } else { quick() };
        let client = Client::open_patiently(&web.place(), Mode::ReadWrite, &patience);
        let names: Vec<_> = ["1", "2", "3", "4", "5"].map(name).into();
        assert!(client.share.find(&names).iter().all(Option::is_none));
        let said = client.said();
        // What was asked for at the same time may fail, and say so, after that.
        let given_up: Vec<_> = said.iter().filter(|text| text.contains("not used any more in this run")).collect();
        assert!(given_up.len() == 1 && given_up[0].contains(why), "{why}: {said:?}");
        let asked = web.requests().len();
        assert!(client.find(&name("6")).is_none());
        assert_eq!(client.put(&name("6"), b"x"), Uploads::default());
        assert_eq!((web.requests().len(), client.said().len()), (asked, said.len()), "{why}: it was asked again");
    }
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_given_up() {
    let bytes = noise(1, BLOCK + 1);
    // Each request fails twice, in turns by an error and by a cut.
    let web = filled(&bytes);
    let content = web.content.lock().unwrap().clone();
    let web = web.again(move |request| match request.number {
        0 => Some(Answer::new("503 Service Unavailable", b"slow down")),
        1 => Some(Answer::ok(&content[&request.path]).cut(50)),
        _ => None,
    });
    let client = Client::open(&web.place(), Mode::ReadOnly);
    assert!(client.get(&name("1")).unwrap() == bytes, "{:?}", client.said());
    assert!(client.said().is_empty(), "{:?}", client.said());
    let web = web.again(|_| Some(Answer::new("500 Internal Server Error", b"a stack trace\nof many lines")));
    let client = Client::open(&web.place(), Mode::ReadWrite);
    assert!(client.find(&name("1")).is_none());
    assert!(client.said()[0].contains("HTTP 500 Internal Server Error (tried 3 times)"), "{:?}", client.said());
    assert!(client.share.find(&["2", "3", "4"].map(name)).iter().all(Option::is_none));
    assert!(client.said().iter().any(|text| text.contains("not used any more")), "{:?}", client.said());
}

#[test]
fn nobody_there_is_said_once() {
    let place = Place::parse("http://127.0.0.1:1/cache", "--cache").unwrap();
    let client = Client::open_patiently(&place, Mode::ReadWrite, &quick());
    assert!(client.share.find(&["1", "2", "3"].map(name)).iter().all(Option::is_none));
    assert!(client.find(&name("4")).is_none());
    let said = client.said();
    let given_up: Vec<_> = said.iter().filter(|text| text.contains("not used any more")).collect();
    assert!(given_up.len() == 1 && given_up[0].contains("refused"), "{said:?}");
}

#[test]
fn a_server_that_dies_midway_costs_the_result_and_no_more() {
    let bytes = noise(1, 12 * BLOCK);
    let web = filled(&bytes);
    let client = Client::open_patiently(&web.place(), Mode::ReadWrite, &quick());
    let found = client.find(&name("1")).unwrap();
    let mut web = Some(web);
    let taken: Option<()> = client.share.get(&found, |stream| {
        let mut head = vec![0; BLOCK];
        stream.read_exact(&mut head)?;
        assert!(head == bytes[..BLOCK]);
        drop(web.take());
        std::io::copy(stream, &mut std::io::sink())?;
        Ok(())
    });
    assert!(taken.is_none());
    assert!(client.said()[0].contains("thing") || client.said()[0].contains("not used any more"), "{:?}", client.said());
}

#[test]
fn lies_about_sizes_are_not_believed() {
    let web = filled(&noise(1, BLOCK));
    let lie = |part: &'static str| {
        move |request: &crate::fetch::tests::server::Request| {
            request.path.contains(part).then(|| Answer::ok(b"x").claim(1 << 40).stall())
        }
    };
    let web = web.again(lie("/results/"));
    let client = Client::open(&web.place(), Mode::ReadOnly);
    assert!(client.find(&name("1")).is_none());
    assert!(client.said()[0].contains("claims to have 1099511627776 bytes"), "{:?}", client.said());
    let web = web.again(lie("/blocks/"));
    let client = Client::open(&web.place(), Mode::ReadOnly);
    assert!(client.get(&name("1")).is_none());
    assert!(client.said()[0].contains("has 1099511627776 bytes instead of"), "{:?}", client.said());
}

#[test]
fn uploads_that_fail_are_warnings_and_leave_no_record() {
    let only = |method: &'static str, status: &'static str| {
        move |request: &crate::fetch::tests::server::Request| (request.method == method).then(|| Answer::new(status, b""))
    };
    let web = filled(b"x").again(only("PUT", "507 Insufficient Storage"));
    let client = Client::open(&web.place(), Mode::ReadWrite);
    assert_eq!(client.put(&name("2"), b"y"), Uploads::default());
    assert!(client.said()[0].contains("did not get to the shared cache: HTTP 507"), "{:?}", client.said());
    let web = web.again(only("PUT", "404 Not Found"));
    let client = Client::open(&web.place(), Mode::ReadWrite);
    assert_eq!(client.put(&name("2"), b"y"), Uploads::default());
    assert!(client.said()[0].contains("there is no such bucket or folder"), "{:?}", client.said());
    let web = web.again(only("PUT", "403 Forbidden"));
    let client = Client::open(&web.place(), Mode::ReadWrite);
    assert_eq!(client.put(&name("2"), b"y"), Uploads::default());
    assert_eq!(client.put(&name("3"), b"z"), Uploads::default());
    let said = client.said();
    assert!(said.len() == 1 && said[0].contains("nothing more is put") && said[0].contains("HTTP 403"), "{said:?}");
    // What can still be read is read.
    assert_eq!(client.get(&name("1")).unwrap(), b"x");
    assert!(web.content.lock().unwrap().keys().all(|path| !path.ends_with(&"2".repeat(64))));
}

#[test]
fn a_server_that_takes_for_ever_is_not_waited_for() {
    let web = Web::start(|request| (request.method == "PUT").then(Answer::silence));
    let client = Client::open(&web.place(), Mode::ReadWrite);
    client.share.put(name("1"), |out| Ok(out.write_all(b"x")?));
    let mut ticks = 0;
    let end = client.share.finish(LONG, |uploads| {
        assert_eq!(uploads.waiting, 1);
        ticks += 1;
        ticks < 3
    });
    assert_eq!((end.waiting, end.done), (1, 0));
    assert!(client.said()[0].contains("1 of 1 results did not get there"), "{:?}", client.said());
}

#[test]
fn who_asks_is_told_to_the_server_and_to_nobody_else() {
    use crate::share::http::{Connector, PASSWORD_VARIABLE, TOKEN_VARIABLE, USER_VARIABLE, authorization};
    let with = |pairs: &'static [(&str, &str)]| {
        authorization(move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    };
    assert_eq!(with(&[]).unwrap(), None);
    let basic = with(&[(USER_VARIABLE, "me"), (PASSWORD_VARIABLE, "hunter2")]).unwrap().unwrap();
    assert_eq!(basic.to_str().unwrap(), "Basic bWU6aHVudGVyMg==");
    let token = with(&[(USER_VARIABLE, "me"), (TOKEN_VARIABLE, "hunter2")]).unwrap();
    let shown = format!("{:?}", Connector { connect: LONG, authorization: token.clone() });
    assert!(token.unwrap() == "Bearer hunter2" && !shown.contains("hunter2"), "{shown}");
    let error = with(&[(TOKEN_VARIABLE, "hunter2\n")]).unwrap_err();
    assert!(error.contains(TOKEN_VARIABLE) && !error.contains("hunter2"), "{error}");
}
