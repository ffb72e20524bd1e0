//! A small HTTP client over one kept connection: a load generator that costs less than what it
//! measures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

/// One connection to a server on this machine.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
    body: Vec<u8>,
}

impl Client {
    /// Connects to `127.0.0.1:port`.
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to egret");
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        Self { stream: BufReader::new(stream), request: Vec::new(), body: Vec::new() }
    }

    /// Sends a request and returns the answer's body; any status but 2xx ends the bench.
    pub(crate) fn send(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> &[u8] {
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .expect("write to memory");
        self.request.extend_from_slice(body);
        self.stream.get_mut().write_all(&self.request).expect("send a request");
        let status = self.read_answer();
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&self.body)
        );
        &self.body
    }

    /// As `send`, with JSON both ways.
    pub(crate) fn json(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = self.send(method, path, "application/json", &body);
        serde_json::from_slice(answer).unwrap_or(Value::Null)
    }

    fn read_answer(&mut self) -> u16 {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("read a status line");
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("read a header");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().expect("a content length");
            }
            assert!(
                !name.eq_ignore_ascii_case("transfer-encoding"),
                "chunked answers not expected"
            );
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).expect("read a body");
        status
    }
}
