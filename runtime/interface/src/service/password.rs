//! How the password of a service's administrator is changed.

use serde::{Deserialize, Serialize};

/// What `dkmadmin reset-password` does for a service. All of it but the user's name is a template, as in the service itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PasswordReset {
    /// The program and its arguments; it reads the new password, one line, from standard input. It runs with the service's environment and in
    /// its folder, whether the service runs or not.
    pub command: Vec<String>,
    /// The file in the data folder that keeps the password. It is written anew once the command has succeeded.
    pub secret: String,
    /// A file in the data folder that is there once the service has taken its password from `secret`. While there is none, the command is
    /// not run: the service will take the new one. Default: it always is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once_there: Option<String>,
    /// Whose password it is, to be shown.
    pub user: String,
}

impl PasswordReset {
    /// What may be a template.
    pub fn strings(&mut self) -> impl Iterator<Item = &mut String> {
        self.command.iter_mut().chain([&mut self.secret]).chain(&mut self.once_there)
    }
}
