//! What to do about what the database refuses: the server says what is wrong, in its own words, and
//! seldom what an administrator has to type.

use std::path::PathBuf;

use crate::connect::quote_identifier;
use crate::error::Error;

/// Who signs in.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password: PasswordSource,
}

/// Where the password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PasswordSource {
    Nowhere,
    Url,
    /// The option `password`, or the environment.
    Configuration,
    File(PathBuf),
}

impl Login {
    /// The error with what to do about it, where that is known.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let message = error.to_string();
        let known = error.code().and_then(|code| self.remedy(code, &message));
        let remedy = known.or_else(|| self.without_code(&error, &message));
        match remedy {
            Some(remedy) if !message.contains(&remedy) => error.followed_by(&remedy),
            _ => error,
        }
    }

    /// What to do about an error of the server.
    fn remedy(&self, code: &str, message: &str) -> Option<String> {
        let says = |text: &str| message.contains(text);
        let role = quote_identifier(&self.user);
        Some(match code {
            "28P01" if says("certificate authentication failed") => self.wrong_certificate(),
            "28P01" => format!(
                "the password {} is wrong, or there is no role [{}] that may sign in with one",
                self.password_source(),
                self.user
            ),
            "28000" if says("pg_hba.conf") => {
                let encryption = if says("no encryption") || says("SSL off") {
                    ", or encrypt with sslmode=require where it has one for hostssl"
                } else {
                    ""
                };
                format!(
                    "add a line for this role, database and address to the server's pg_hba.conf, \
                     and reload it{encryption}"
                )
            }
            "28000" if says("valid client certificate") => {
                "give the role's certificate and key with sslcert and sslkey".to_owned()
            }
            "28000" if says("certificate authentication failed") => self.wrong_certificate(),
            "28000" if says("not permitted to log in") => format!("ALTER ROLE {role} LOGIN"),
            "28000" if says("does not exist") => {
                format!("make it: CREATE ROLE {role} LOGIN REPLICATION, or name another in the URL")
            }
            "3D000" => "name one that does in the URL".to_owned(),
            "42501" => return self.missing_privilege(message),
            "53300" if says("max_wal_senders") || says("number of requested standby") => {
                "raise max_wal_senders, of which one pipeline takes up to five".to_owned()
            }
            "53300" => {
                "raise max_connections, or the connection limit of the role or database".into()
            }
            "53400" if says("replication slots") => {
                "raise max_replication_slots, of which one pipeline takes up to five".to_owned()
            }
            "55006" if says("replication slot") => {
                "does another pipeline or program use the same slot".to_owned()
            }
            "55000" | "25006" if says("recovery") => {
                "it is a standby: it can be followed once it is promoted".to_owned()
            }
            _ => return None,
        })
    }

    fn missing_privilege(&self, message: &str) -> Option<String> {
        let says = |text: &str| message.contains(text);
        let role = quote_identifier(&self.user);
        let replication = ["walsender", "WAL sender", "replication slots", "replication role"];
        if replication.into_iter().any(says) {
            return Some(format!("ALTER ROLE {role} REPLICATION"));
        }
        if says("creating the publication") {
            let database = quote_identifier(&self.database);
            return Some(format!(
                "GRANT CREATE ON DATABASE {database} TO {role}, or have the tables' owner make the \
                 publication (`egret init` prints the statement)"
            ));
        }
        if says("permission denied for database") {
            let database = quote_identifier(&self.database);
            return Some(format!("GRANT CONNECT ON DATABASE {database} TO {role}"));
        }
        if says("row-level security") {
            return Some(format!(
                "ALTER ROLE {role} BYPASSRLS, or a table whose policies hide rows from it is not \
                 followed"
            ));
        }
        None
    }

    fn without_code(&self, error: &Error, message: &str) -> Option<String> {
        if message.contains("password missing") {
            let from = "put it into the URL, PGPASSWORD, or a file named by password_file";
            return Some(format!("the server asks for the password of [{}]: {from}", self.user));
        }
        crate::tls::remedy_of(error).map(str::to_owned)
    }

    fn wrong_certificate(&self) -> String {
        format!(
            "the client certificate's common name must be the role's, [{}], or be mapped to it in \
             pg_ident.conf",
            self.user
        )
    }

    fn password_source(&self) -> String {
        match &self.password {
            PasswordSource::Nowhere => {
                "(none is given: the URL, PGPASSWORD and password_file can)".into()
            }
            PasswordSource::Url => "in the URL".to_owned(),
            PasswordSource::Configuration => "from PGPASSWORD or the option password".to_owned(),
            PasswordSource::File(path) => format!("in password_file [{}]", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_that_helps() {
        let login = |password| Login { user: "a b".into(), database: "d".into(), password };
        let check = |code: &str, message: &str, expected: &str| {
            let found = login(PasswordSource::Url).remedy(code, message).unwrap_or_default();
            assert!(found.contains(expected), "{message}: {found}");
        };
        check(
            "28P01",
            "password authentication failed for user",
            "the password in the URL is wrong",
        );
        let no_line = "no pg_hba.conf entry for host \"::1\", user \"a b\", database \"d\", ";
        check("28000", &format!("{no_line}no encryption"), "sslmode=require");
        check("28000", &format!("{no_line}SSL encryption"), "pg_hba.conf, and reload it");
        check("28000", "role \"a b\" is not permitted to log in", "ALTER ROLE \"a b\" LOGIN");
        check("42501", "permission denied to start WAL sender", "ALTER ROLE \"a b\" REPLICATION");
        check(
            "42501",
            "creating the publication: permission denied",
            "GRANT CREATE ON DATABASE \"d\"",
        );
        check("55000", "recovery is in progress", "once it is promoted");
        let file = login(PasswordSource::File("/p".into()));
        assert!(file.remedy("28P01", "no").unwrap().contains("password_file [/p]"));
        assert_eq!(file.remedy("22012", "division by zero"), None);
    }
}
