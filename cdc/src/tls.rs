//! TLS to the database, as libpq's parameters in the URL say it. `require` with a `sslrootcert` verifies
//! the authority, as libpq does. The files are read at each connection: what is replaced on disk counts
//! from the next one on.
//!
//! The connection that follows the log is encrypted by its driver, the others here, to tell what is
//! wrong with a certificate. Both hold it to the same: the driver knows no `verify-ca` that takes every
//! name, so it is told the name that the certificate has, which was verified here just before.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use pgwire_replication::tls::rustls::MaybeTlsStream;
use pgwire_replication::{SslMode, TlsConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, Result};

/// Asks the server whether it has TLS: the message's length, and the code of `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) mode: SslMode,
    roots: Option<PathBuf>,
    /// The client's certificate and its key.
    identity: Option<(PathBuf, PathBuf)>,
    /// A name of the server's certificate, as of the last connection that verified one. Held to copy
    /// it.
    name: Arc<Mutex<Option<String>>>,
}

impl Tls {
    /// The URL without its TLS parameters, which the driver knows only in part, and what they say.
    pub(crate) fn split(url: &str) -> Result<(String, Self)> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut roots) = (SslMode::Prefer, None);
        let (mut certificate, mut key) = (None, None);
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value =
                percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "sslmode" => mode = parse_mode(&value)?,
                "sslrootcert" if value == "system" => {
                    let message = "sslrootcert [system] is not known: name a file, or leave it out for \
                                   the authorities that browsers know";
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                "sslrootcert" => roots = Some(PathBuf::from(value)),
                "sslcert" => certificate = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                _ => kept.push(pair),
            }
        }
        if certificate.is_some() != key.is_some() {
            let message = "sslcert and sslkey are only understood together";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if mode == SslMode::Require && roots.is_some() {
            mode = SslMode::VerifyCa;
        }
        let tls = Self { mode, roots, identity: certificate.zip(key), name: Arc::default() };
        if kept.is_empty() {
            return Ok((base.to_owned(), tls));
        }
        Ok((format!("{base}?{}", kept.join("&")), tls))
    }

    /// The same for the driver of the connection that follows the log.
    pub(crate) fn for_driver(&self, host: &str) -> TlsConfig {
        let name = match self.mode {
            SslMode::VerifyCa => self.name.lock().clone(),
            _ => None,
        };
        let (certificate, key) = self.identity.clone().unzip();
        TlsConfig {
            mode: self.mode,
            ca_pem_path: self.roots.clone(),
            client_cert_pem_path: certificate,
            client_key_pem_path: key,
            // Given, it may be an address too, where that is what the certificate has.
            sni_hostname: Some(name.unwrap_or_else(|| host.to_owned())),
        }
    }

    /// Encrypts a connection that has just been made, as far as it is to be.
    pub(crate) async fn upgrade(
        &self,
        mut stream: TcpStream,
        host: &str,
    ) -> Result<MaybeTlsStream> {
        if self.mode == SslMode::Disable {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        stream.write_all(&SSL_REQUEST).await.map_err(broken)?;
        match stream.read_u8().await.map_err(broken)? {
            b'S' => {}
            _ if self.mode == SslMode::Prefer => return Ok(MaybeTlsStream::Plain(stream)),
            _ => {
                let message = "the server has no TLS, which sslmode asks for: set ssl = on there, or \
                               sslmode=disable where the network is trusted";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        let connector = TlsConnector::from(Arc::new(self.client()?));
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::new(ErrorKind::Unavailable, format!("[{host}] is no name that TLS knows"))
        })?;
        let upgraded = connector.connect(name, stream).await.map_err(|error| {
            let error = match tls_error(&error) {
                Some(tls) => Error::new(ErrorKind::Unavailable, self.told(tls, host)),
                None => Error::new(ErrorKind::Unavailable, format!("encrypting: {error}")),
            };
            error.context("TLS")
        })?;
        Ok(MaybeTlsStream::Tls(Box::new(upgraded)))
    }

    fn client(&self) -> Result<ClientConfig> {
        let wrong = |error: TlsError| {
            Error::new(ErrorKind::Unavailable, format!("TLS: {error}")).with_source(error)
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier {
            chain: self.chain(&provider)?,
            any_name: self.mode == SslMode::VerifyCa,
            name: Arc::clone(&self.name),
            schemes: provider.signature_verification_algorithms.supported_schemes(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let Some((certificate, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let certificates = certificates("sslcert", certificate)?;
        let key =
            PrivateKeyDer::from_pem_file(key).map_err(|error| unread("sslkey", key, &error))?;
        builder.with_client_auth_cert(certificates, key).map_err(|error| {
            wrong(error).context("sslcert and sslkey do not go together, or are of no known kind")
        })
    }

    /// What verifies that an authority signed the certificate, where that is asked for.
    fn chain(&self, provider: &Arc<CryptoProvider>) -> Result<Option<Arc<WebPkiServerVerifier>>> {
        if !self.mode.verifies_certificate() {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.roots {
            let (added, _) = roots.add_parsable_certificates(certificates("sslrootcert", path)?);
            if added == 0 {
                let message = format!("sslrootcert [{}] has no certificate", path.display());
                return Err(Error::new(ErrorKind::Io, message));
            }
        } else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let provider = Arc::clone(provider);
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        chain.map(Some).map_err(|error| Error::new(ErrorKind::Io, format!("sslrootcert: {error}")))
    }

    /// What is wrong, and what to do.
    fn told(&self, error: &TlsError, host: &str) -> String {
        let TlsError::InvalidCertificate(wrong) = error else {
            let remedy = refusal(error).map(|remedy| format!("; {remedy}")).unwrap_or_default();
            return format!("{error}{remedy}");
        };
        match wrong {
            CertificateError::UnknownIssuer => match &self.roots {
                Some(path) => format!(
                    "no authority of sslrootcert [{}] signed the server's certificate: is it another \
                     server, or another authority's file",
                    path.display()
                ),
                None => {
                    "no authority that browsers know signed the server's certificate: name the \
                         one that did with sslrootcert"
                        .to_owned()
                }
            },
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "{wrong}: connect to [{host}] by a name that the certificate has, or use \
                     sslmode=verify-ca"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the server's {wrong}: it must be renewed there")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the server's {wrong}: is the clock of one of the two machines wrong")
            }
            _ => format!("the server's certificate is not accepted: {wrong}"),
        }
    }
}

/// Looks at the server's certificate.
#[derive(Debug)]
struct Verifier {
    /// Nothing is verified without it.
    chain: Option<Arc<WebPkiServerVerifier>>,
    any_name: bool,
    /// Where to note a name of the certificate.
    name: Arc<Mutex<Option<String>>>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        status: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let wrong_name =
            match chain.verify_server_cert(certificate, intermediates, host, status, now) {
                Ok(verified) => {
                    *self.name.lock() = Some(host.to_str().into_owned());
                    return Ok(verified);
                }
                // The name is looked at last: the chain is good.
                Err(TlsError::InvalidCertificate(
                    wrong @ (CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. }),
                )) if self.any_name => wrong,
                Err(error) => return Err(error),
            };
        let name = a_name(certificate).ok_or(TlsError::InvalidCertificate(wrong_name))?;
        *self.name.lock() = Some(name);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match &self.chain {
            Some(chain) => chain.verify_tls12_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        match &self.chain {
            Some(chain) => chain.verify_tls13_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// A host that a certificate is for.
fn a_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let name = certificate.valid_dns_names().next()?;
    Some(name.strip_prefix('*').map_or_else(|| name.to_owned(), |rest| format!("egret{rest}")))
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| unread(option, path, &error))
}

fn unread(option: &str, path: &Path, error: &pem::Error) -> Error {
    let reason = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it has no such PEM section".to_owned(),
        error => error.to_string(),
    };
    Error::new(ErrorKind::Io, format!("cannot read {option} [{}]: {reason}", path.display()))
}

fn broken(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("asking for TLS: {error}")).with_source(error)
}

/// The error of TLS within one of a connection.
fn tls_error(error: &std::io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

/// What to do where the server ended the handshake: with TLS 1.3 the client learns it only with its
/// first message afterwards.
fn refusal(error: &TlsError) -> Option<&'static str> {
    matches!(error, TlsError::AlertReceived(_)).then_some(
        "the server does not accept the client certificate: sslcert must be valid, and signed by an \
         authority of the server's ssl_ca_file",
    )
}

/// What to do about an error of a connection, where one of TLS is behind it.
pub(crate) fn remedy_of(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref().and_then(tls_error) {
            return refusal(tls);
        }
        next = error.source();
    }
    None
}

fn parse_mode(value: &str) -> Result<SslMode> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            let message = format!(
                "sslmode [{value}] is not disable, prefer, require, verify-ca or verify-full"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_url() {
        let check = |url: &str, rest: &str, mode: SslMode, roots: Option<&str>| {
            let (found, tls) = Tls::split(url).unwrap();
            assert_eq!(found, rest);
            assert_eq!((tls.mode, tls.roots), (mode, roots.map(PathBuf::from)), "{url}");
        };
        check("postgres://h/d", "postgres://h/d", SslMode::Prefer, None);
        check("p://h/d?sslmode=disable&a=b", "p://h/d?a=b", SslMode::Disable, None);
        check("p://h?sslmode=require", "p://h", SslMode::Require, None);
        // As libpq has it: an authority that is named is not named in vain.
        check("p://h?sslrootcert=/a%20b&sslmode=require", "p://h", SslMode::VerifyCa, Some("/a b"));
        check("p://h?sslmode=verify-full&sslrootcert=c", "p://h", SslMode::VerifyFull, Some("c"));
        let refused = |url: &str, expected: &str| {
            let error = Tls::split(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(expected), "{url}: {error}");
        };
        refused("p://h?sslmode=allow", "sslmode [allow]");
        refused("p://h?sslkey=x", "sslcert and sslkey");
        refused("p://h?sslrootcert=system", "[system]");
    }

    #[test]
    fn the_driver_is_told_a_name_that_the_certificate_has() {
        let (_, tls) = Tls::split("p://h?sslmode=verify-ca").unwrap();
        assert_eq!(tls.for_driver("h").sni_hostname.as_deref(), Some("h"));
        *tls.name.lock() = Some("db.example".to_owned());
        assert_eq!(tls.for_driver("h").sni_hostname.as_deref(), Some("db.example"));
        // Where the name counts it is never another than the one that was given.
        let (_, mut full) = Tls::split("p://h?sslmode=verify-full").unwrap();
        full.name = Arc::clone(&tls.name);
        assert_eq!(full.for_driver("h").sni_hostname.as_deref(), Some("h"));
    }
}
