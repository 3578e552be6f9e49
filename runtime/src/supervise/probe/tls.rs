//! Whether somebody speaks TLS: the first message of a handshake, and how its answer begins.
//!
//! That is enough to tell that a service is there and could read its certificate and key. No secret is made, and none is needed: the
//! handshake ends with that.

use std::io;

/// What is offered of ciphers, curves and signatures: what every server of TLS 1.2 has a choice from.
const CIPHERS: [u16; 8] = [0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0x009c, 0x002f];
const CURVES: [u16; 3] = [0x001d, 0x0017, 0x0018];
const SIGNATURES: [u16; 9] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0603, 0x0806, 0x0601];

/// Kinds of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// Something with its length before it, in two bytes.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

fn list(numbers: &[u16]) -> Vec<u8> {
    counted(&numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>())
}

/// "Client Hello" of TLS 1.2 (RFC 5246, 7.4.1.2).
pub fn hello() -> Vec<u8> {
    let extension = |number: u16, body: &[u8]| [&number.to_be_bytes()[..], &counted(body)].concat();
    let extensions = [extension(10, &list(&CURVES)), extension(11, &[1, 0]), extension(13, &list(&SIGNATURES))].concat();
    let mut body = vec![3, 3];
    // Random numbers protect what comes later, and nothing does.
    body.extend([0x64; 32]);
    // No earlier session.
    body.push(0);
    body.extend(list(&CIPHERS));
    // No compression.
    body.extend([1, 0]);
    body.extend(counted(&extensions));
    // The length has three bytes here.
    let message = [&[1, 0][..], &counted(&body)].concat();
    [&[HANDSHAKE, 3, 1][..], &counted(&message)].concat()
}

/// Whether an answer is TLS; none: more of it is needed.
pub fn judge(answer: &[u8]) -> Option<io::Result<()>> {
    match *answer {
        [HANDSHAKE, 3, ..] => Some(Ok(())),
        [ALERT, 3, _, _, _, _, number, ..] => Some(Err(io::Error::other(format!("TLS was refused with alert {number}")))),
        [] | [HANDSHAKE] | [ALERT] => None,
        [ALERT, 3, ..] if answer.len() < 7 => None,
        _ => Some(Err(io::Error::other("the answer is not TLS"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fit() {
        let hello = hello();
        let at = |place: usize| usize::from(u16::from_be_bytes([hello[place], hello[place + 1]]));
        assert_eq!(at(3), hello.len() - 5);
        assert_eq!((hello[5], hello[6], at(7)), (1, 0, hello.len() - 9));
    }

    #[test]
    fn answers_are_told_apart() {
        assert!(judge(b"").is_none() && judge(&[22]).is_none() && judge(&[21, 3, 3, 0, 2, 2]).is_none());
        assert!(judge(&[22, 3, 3, 0, 80, 2]).unwrap().is_ok());
        assert!(judge(&[21, 3, 3, 0, 2, 2, 40]).unwrap().unwrap_err().to_string().contains("alert 40"));
        assert!(judge(b"HTTP/1.0 400 Bad Request").unwrap().is_err());
    }
}
