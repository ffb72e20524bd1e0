//! A client of a running server's HTTP interface, for the commands that tell it what to do. One request
//! a connection, blocking.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// How long a connection may take, and an answer.
const CONNECTING: Duration = Duration::from_secs(10);
const ANSWERING: Duration = Duration::from_secs(120);

/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// Which server.
#[derive(Debug, Clone, Default, Args)]
pub struct Server {
    /// Where the server listens [default: 127.0.0.1:9200, or as the configuration file says]
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub server: Option<String>,
    /// The server's configuration file, for its address
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// Speaks to one server.
#[derive(Debug)]
pub(crate) struct Client {
    /// `host:port`.
    address: String,
}

impl Client {
    /// Of the server that was named.
    pub(crate) fn of(server: &Server) -> Result<Self> {
        let address = match (&server.server, &server.config) {
            (Some(address), _) => address.clone(),
            (None, Some(path)) => listened(path)?,
            (None, None) => Config::default().http.listen,
        };
        let plain = address.strip_prefix("http://").unwrap_or(&address).trim_end_matches('/');
        if plain.contains("://") || plain.contains('/') {
            let reason = format!("[{address}] is no address of a server: host:port");
            return Err(Error::new(Kind::Configuration, reason));
        }
        Ok(Self { address: plain.to_owned() })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str) -> Result<Value> {
        self.ask("POST", path, None)
    }

    /// One request; an error names what the server says is wrong.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let address = &self.address;
        let answer = self.exchange(method, path, body).map_err(|error| {
            let reason = format!("cannot ask the server at [{address}]: {error}");
            Error::new(Kind::Unavailable, reason).with_source(error)
        })?;
        let garbled = || {
            let reason = format!("what listens at [{address}] does not speak as Egret does");
            Error::new(Kind::Unavailable, reason)
        };
        let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(garbled)?;
        let status = head.split(' ').nth(1).ok_or_else(garbled)?;
        let body: Value = serde_json::from_str(text).map_err(|_| garbled())?;
        if status.starts_with('2') {
            return Ok(body);
        }
        let reason = body["error"]["reason"].as_str().unwrap_or(status).to_owned();
        let kind = if status == "404" { Kind::NotFound } else { Kind::State };
        Err(Error::new(kind, reason))
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<String> {
        let mut found = self.address.to_socket_addrs()?;
        let address = found.next().ok_or_else(|| std::io::Error::other("no such host"))?;
        let mut connection = TcpStream::connect_timeout(&address, CONNECTING)?;
        connection.set_read_timeout(Some(ANSWERING))?;
        connection.set_write_timeout(Some(ANSWERING))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        // The older version has the answer whole, and the connection closed behind it.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        connection.write_all(request.as_bytes())?;
        let mut answer = String::new();
        connection.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Where a server with this configuration listens, as seen from this machine.
fn listened(path: &Path) -> Result<String> {
    let listen = Config::read(path)?.http.listen;
    Ok(match listen.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("127.0.0.1:{port}"),
        _ => listen,
    })
}

/// A text as a part of a path, or as a parameter.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let of = |server: Option<&str>| {
            let server = Server { server: server.map(str::to_owned), config: None };
            Client::of(&server).map(|client| client.address).map_err(|error| error.to_string())
        };
        assert_eq!(of(None).unwrap(), "127.0.0.1:9200");
        assert_eq!(of(Some("http://search:9201/")).unwrap(), "search:9201");
        assert!(of(Some("https://search:9201")).unwrap_err().contains("https"));
        assert!(of(Some("search/x")).unwrap_err().contains("host:port"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("egret.toml");
        std::fs::write(&file, "[http]\nlisten = \"0.0.0.0:9300\"").unwrap();
        let server = Server { server: None, config: Some(file) };
        assert_eq!(Client::of(&server).unwrap().address, "127.0.0.1:9300");
    }

    #[test]
    fn texts_become_parts_of_paths() {
        assert_eq!(encoded("a/b c"), "a%2Fb%20c");
    }
}
