//! Random secrets.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

/// Grafana's password and the key that it encrypts with.
///
/// # Errors
/// When the system gives no random numbers.
pub fn pair() -> Result<(String, String)> {
    Ok((random(20)?, random(40)?))
}

/// Random letters and digits: 62 to the power of the length.
///
/// # Errors
/// When the system gives no random numbers.
pub fn random(length: usize) -> Result<String> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut source = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let mut out = String::with_capacity(length);
    let mut bytes = [0_u8; 64];
    while out.len() < length {
        source.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
        // 248 is the largest multiple of 62 in a byte; the rest would favour some letters.
        let fair = bytes.iter().filter(|&&byte| byte < 248);
        out.extend(fair.take(length - out.len()).map(|byte| char::from(LETTERS[usize::from(byte % 62)])));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_have_their_length() {
        let (one, other) = (random(40).unwrap(), random(40).unwrap());
        assert_eq!((one.len(), other.len()), (40, 40));
        assert_ne!(one, other);
    }
}
