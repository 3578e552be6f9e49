//! Signatures in minisign's format: secret keys, and what is signed with them.
//!
//! Promises: the same key, content and comment give the same signature, byte for byte, so that a signed archive can be made
//! anew and compared like one without; minisign's own tool makes the same bytes. A secret key is never read from the
//! repository, nor from a file that others can read, and never shown. A signature is put in place whole.
//!
//! The trusted comment, which the signature covers too, says what was signed: a file's name, its time and SHA-256.
//!
//! Left to others: verifying ([`crate::verify`], [`dkumonitor_interface::integrity`]).

use crate::archive::SIGNATURE;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::hex;
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use blake2::{Blake2b512, Digest as _};
use dkumonitor_interface::integrity::PublicKey;
use minisign::SecretKeyBox;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The variable with the password of a secret key that has one.
pub const PASSWORD: &str = "DKUMONITOR_SIGN_PASSWORD";

/// What stands before a variable's name in `--sign`.
const VARIABLE: &str = "env:";

/// A secret key as minisign keeps it: algorithms and parameters, then the id, seed and public key, and a checksum.
const KEY_BYTES: usize = 158;
/// Where its id begins.
const KEY_ID: usize = 54;
/// Where its seed begins.
const SEED: usize = 62;
/// Where its public key begins.
const PUBLIC: usize = 94;
/// Where its checksum begins.
const CHECKSUM: usize = 126;

/// Somebody who can sign.
pub struct Signer {
    pair: Ed25519KeyPair,
    id: [u8; 8],
}

impl Signer {
    /// Reads the secret key that `--sign` names: a file, or `env:VARIABLE`.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it cannot be read, is no secret key, lies in `repository`, can be read by others, or its password is
    /// missing or wrong.
    pub fn open(word: &str, repository: &Path) -> anyhow::Result<Self> {
        let text = match word.strip_prefix(VARIABLE) {
            Some(name) => std::env::var(name)
                .kind(Kind::Usage, || format!("cannot read the secret key from the variable {name} ({word})"))?,
            None => read_key_file(Path::new(word), repository)?,
        };
        let bytes = decrypt(&text).kind(Kind::Usage, || format!("cannot use the secret key {word}"))?;
        Self::from_bytes(&bytes).kind(Kind::Usage, || format!("cannot use the secret key {word}"))
    }

    fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        anyhow::ensure!(bytes.len() == KEY_BYTES, "it has {} bytes instead of {KEY_BYTES}", bytes.len());
        // The library compares the seed's public key with this one.
        let pair = Ed25519KeyPair::from_seed_and_public_key(&bytes[SEED..PUBLIC], &bytes[PUBLIC..CHECKSUM])
            .map_err(|_| anyhow::anyhow!("its public part does not belong to its secret part"))?;
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[KEY_ID..SEED]);
        Ok(Self { pair, id })
    }

    /// The key's id as minisign writes it.
    pub fn id(&self) -> String {
        format!("{:016X}", u64::from_le_bytes(self.id))
    }

    /// The public key, as one line.
    pub fn public_line(&self) -> String {
        BASE64.encode([b"Ed".as_slice(), &self.id, self.pair.public_key().as_ref()].concat())
    }

    /// The public key.
    ///
    /// # Errors
    /// None with a key that could be opened.
    pub fn public_key(&self) -> anyhow::Result<PublicKey> {
        PublicKey::from_base64(&self.public_line()).context("cannot derive the public key")
    }

    /// The signature of `content`; `comment` is the trusted comment, one line.
    pub fn sign(&self, content: &[u8], comment: &str) -> String {
        self.sign_hash(&Blake2b512::digest(content), comment)
    }

    fn sign_hash(&self, hash: &[u8], comment: &str) -> String {
        let signature = self.pair.sign(hash);
        self.text(signature.as_ref(), comment)
    }

    fn text(&self, signature: &[u8], comment: &str) -> String {
        let global = self.pair.sign(&[signature, comment.as_bytes()].concat());
        let line = BASE64.encode([b"ED".as_slice(), &self.id, signature].concat());
        let mut text = format!("untrusted comment: signature by the minisign key {}\n{line}\n", self.id());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "trusted comment: {comment}\n{}", BASE64.encode(global.as_ref()));
        text
    }

    /// Whether `text` is what this key signed with this comment. What else was signed is not looked at: a comment that names
    /// a SHA-256 stands for the content.
    fn has_signed(&self, text: &str, comment: &str) -> bool {
        let line = text.lines().nth(1).and_then(|line| BASE64.decode(line).ok()).unwrap_or_default();
        line.get(10..).is_some_and(|signature| self.text(signature, comment) == text)
    }

    /// Signs a file, as `FILE.minisig` beside it, unless that is there and of this content. `epoch` is the time that is named in it,
    /// `sha256` the file's hash where it is known. Says whether anything was written.
    ///
    /// # Errors
    /// When the file cannot be read, or the signature not be written.
    pub fn sign_file(&self, path: &Path, epoch: u64, sha256: Option<&str>) -> anyhow::Result<bool> {
        let target = path.with_added_extension(SIGNATURE);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let comment = |sha256: &str| format!("timestamp:{epoch}\tfile:{name}\thashed\tsha256:{sha256}");
        let present = fs::read_to_string(&target).unwrap_or_default();
        if sha256.is_some_and(|sha256| self.has_signed(&present, &comment(sha256))) {
            return Ok(false);
        }
        let (hash, found) = hashes(path).with_context(|| format!("cannot read {}", path.display()))?;
        if sha256.is_some_and(|sha256| sha256 != found) {
            return Err(Kind::Integrity.error(format!("{} was changed while it was signed", path.display())));
        }
        let text = self.sign_hash(&hash, &comment(&found));
        if text == present {
            return Ok(false);
        }
        write(&target, &text).with_context(|| format!("cannot write {}", target.display()))?;
        Ok(true)
    }
}

/// BLAKE2b of a file, and its SHA-256 as text, in one go.
fn hashes(path: &Path) -> io::Result<(Vec<u8>, String)> {
    let mut file = File::open(path)?;
    let (mut blake, mut sha) = (Blake2b512::new(), sha2::Sha256::new());
    let mut piece = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok((blake.finalize().to_vec(), hex(&sha.finalize())));
        }
        blake.update(&piece[..count]);
        sha.update(&piece[..count]);
    }
}

/// Writes beside the place and renames.
fn write(target: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(target.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(target)?;
    Ok(())
}

/// The text of a key file that lies outside the repository and that nobody else can read.
fn read_key_file(path: &Path, repository: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let fail = || format!("cannot read the secret key {shown} (it has to be a file of minisign, or env:VARIABLE)");
    let real = path.canonicalize().kind(Kind::Usage, fail)?;
    if repository.canonicalize().is_ok_and(|repository: PathBuf| real.starts_with(repository)) {
        return Err(Kind::Usage.error(format!(
            "the secret key {shown} lies in the repository, where it is soon committed or packed; keep it elsewhere"
        )));
    }
    let meta = real.metadata().kind(Kind::Usage, fail)?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Kind::Usage.error(format!("the secret key {shown} is open to others (mode {mode:04o}); chmod 600 it")));
    }
    fs::read_to_string(&real).kind(Kind::Usage, fail)
}

/// The bytes of a secret key, decrypted by the password where it has one.
fn decrypt(text: &str) -> anyhow::Result<Vec<u8>> {
    // Some variables cannot hold a line's end; then the second line alone will do.
    let text = match text.trim().lines().count() {
        1 => format!("untrusted comment: secret key\n{}\n", text.trim()),
        _ => text.to_owned(),
    };
    let line = text.lines().nth(1).unwrap_or_default();
    let bytes = BASE64.decode(line).ok().filter(|bytes| bytes.len() == KEY_BYTES && bytes.starts_with(b"Ed"));
    let bytes = bytes.context("it is not a secret key of minisign: two lines, the second one of 212 characters")?;
    if bytes[2..4] == [0, 0] {
        // The library refuses those of minisign up to 0.11, which have no checksum.
        return Ok(bytes);
    }
    let password = std::env::var(PASSWORD).ok();
    // The library asks on standard output, which may be for programs.
    let can_ask = io::stdin().is_terminal() && io::stdout().is_terminal();
    anyhow::ensure!(password.is_some() || can_ask, "it has a password, and {PASSWORD} is not set");
    Ok(SecretKeyBox::from_string(&text)?.into_secret_key(password)?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;
    use dkumonitor_interface::integrity::{self, Standing};
    use minisign::KeyPair;

    fn new_key() -> (String, Signer) {
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let text = pair.sk.to_box(None).unwrap().into_string();
        let signer = Signer::from_bytes(&decrypt(&text).unwrap()).unwrap();
        assert_eq!(signer.public_line(), pair.pk.to_base64());
        (text, signer)
    }

    #[test]
    fn what_is_signed_verifies_by_two_libraries_and_is_the_same_each_time() {
        let (_, signer) = new_key();
        let text = signer.sign(b"content", "file:x");
        assert_eq!(signer.sign(b"content", "file:x"), text);
        let key = signer.public_key().unwrap();
        let standing = |content: &[u8], text: &str| integrity::signature("x", content, Some(text), Some(&key));
        assert_eq!(standing(b"content", &text), Standing::Good("file:x".to_owned()));
        let theirs = minisign::PublicKey::from_base64(&signer.public_line()).unwrap();
        let boxed = minisign::SignatureBox::from_string(&text).unwrap();
        minisign::verify(&theirs, &boxed, io::Cursor::new(b"content"), true, false, false).unwrap();
        assert!(matches!(standing(b"Content", &text), Standing::Bad(why) if why.contains("was changed")));
        assert!(matches!(standing(b"content", &text.replace("file:x", "file:y")), Standing::Bad(_)));
        let (_, other) = new_key();
        let why = standing(b"content", &other.sign(b"content", "file:x"));
        assert!(matches!(&why, Standing::Bad(why) if why.contains("another key")), "{why:?}");
    }

    #[test]
    fn keys_that_others_can_read_or_commit_are_refused() {
        let (text, signer) = new_key();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, &text).unwrap();
        let open = |repository: &str| Signer::open(path.to_str().unwrap(), &folder.path().join(repository));
        let refused = |repository: &str, part: &str| {
            let error = open(repository).map(|signer| signer.id()).unwrap_err();
            assert_eq!(kind_of(&error), Kind::Usage);
            assert!(format!("{error:#}").contains(part), "{error:#}");
            assert!(!format!("{error:#}").contains(text.lines().nth(1).unwrap()), "the key is shown");
        };
        refused("none", "chmod 600");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(open("none").unwrap().id(), signer.id());
        refused(".", "lies in the repository");
        fs::write(&path, "untrusted comment: x\nRWR\n").unwrap();
        refused("none", "not a secret key of minisign");
    }

    #[test]
    fn a_file_is_signed_again_only_when_it_has_to_be() {
        let (_, signer) = new_key();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let sum = crate::fingerprint::hash_file(&path).unwrap();
        let sign = |signer: &Signer, epoch| signer.sign_file(&path, epoch, Some(&sum)).unwrap();
        assert!(sign(&signer, 1) && !sign(&signer, 1));
        assert!(sign(&signer, 2), "another time");
        assert!(sign(&new_key().1, 2), "another key");
        assert!(sign(&signer, 2) && !sign(&signer, 2));
        let beside = path.with_added_extension(SIGNATURE);
        fs::write(&beside, fs::read_to_string(&beside).unwrap().replace("file:file", "file:other")).unwrap();
        assert!(sign(&signer, 2), "a damaged one");
        fs::write(&path, "two").unwrap();
        assert!(signer.sign_file(&path, 3, Some(&sum)).is_err(), "the content is not what was said");
    }
}
