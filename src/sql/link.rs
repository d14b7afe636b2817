//! One connection to a PostgreSQL server, used like a file: whoever asks waits for the answer, on a thread that may.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::TryStreamExt;
use percent_encoding::percent_decode_str;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Socket, Statement};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::{Kind, Params, Result, SqlError, Value};

/// Statements that a connection keeps prepared. Those that are put together come in many texts.
const STATEMENTS: usize = 512;
/// A server that does not answer in this time is away.
const CONNECT: Duration = Duration::from_secs(3);
/// Statements, and bytes of their values, that are posted at most before their answers are waited for.
const POSTED: usize = 64;
const POSTED_BYTES: usize = 1024 * 1024;
/// Beyond the server's own limit of a statement's time: an answer that does not come by then will not.
const SILENCE: Duration = Duration::from_secs(5);

/// Where a PostgreSQL database is, and how to get in.
#[derive(Clone)]
pub struct Target {
    config: Config,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the whole: it has the password.
        f.debug_tuple("Target").field(&self.to_string()).finish()
    }
}

/// Host and database, for people.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        write!(f, "{}/{}", hosts.collect::<Vec<_>>().join(","), self.config.get_dbname().unwrap_or_default())
    }
}

impl Target {
    /// Reads a URL: `postgres://user:password@host:port/database?…`, as libpq does, but for TLS. Without `sslmode` a server
    /// on this machine is spoken to in the clear and any other over TLS; `require` and `verify-full` both want a
    /// certificate that is valid for the host by the system's roots, or by those in the PEM file that `sslrootcert` names;
    /// `disable` is in the clear. Modes that whoever is between could turn off are refused.
    ///
    /// # Errors
    /// A sentence that says what is wrong, without any password.
    pub fn parse(url: &str) -> std::result::Result<Self, String> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err("it must be a URL such as postgres://user:password@host:5432/database".into());
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value.to_owned()),
                Some(("sslrootcert", value)) => roots = Some(decoded(value).map_err(|error| error.to_string())?),
                _ => rest.push(pair),
            }
        }
        let plain = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| said(&error))?;
        if config.get_hosts().is_empty() {
            return Err(
                "it must name a host, or a socket's directory as in postgres:///database?host=/run/postgresql".into()
            );
        }
        if config.get_dbname().is_none() {
            return Err("it must name a database, as in postgres://user@host/database".into());
        }
        let here = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        };
        let tls = match mode.as_deref() {
            Some("disable") => None,
            None if config.get_hosts().iter().all(here) => None,
            None | Some("require" | "verify-full") => Some(trusting(roots.as_deref().map(Path::new))?),
            Some(other) => {
                return Err(format!(
                    "its sslmode is {other:?}: use `require`, which checks the server's certificate, or `disable`"
                ));
            }
        };
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .application_name("landfall")
            .connect_timeout(CONNECT)
            .tcp_user_timeout(Duration::from_secs(15))
            .keepalives_idle(Duration::from_secs(15));
        Ok(Self { config, tls })
    }
}

fn trusting(roots: Option<&Path>) -> std::result::Result<Arc<ClientConfig>, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            let unreadable = |error: rustls_pki_types::pem::Error| {
                format!("the certificates in {} can't be read: {error}", path.display())
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                store.add(certificate.map_err(unreadable)?).map_err(|error| error.to_string())?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err("there is no root certificate to check the server's with: name a PEM file with sslrootcert=".into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(store).with_no_client_auth()))
}

/// An open connection. Its socket is served while somebody waits for an answer.
pub struct Link {
    // Ended without waiting: it may be dropped on a thread that must not wait.
    runtime: Option<Runtime>,
    client: Arc<Client>,
    statements: RefCell<HashMap<String, Statement>>,
    posted: RefCell<Posted>,
    patience: Duration,
}

/// The answer to a statement that was put into the connection's queue.
type Answer = Pin<Box<dyn Future<Output = std::result::Result<u64, tokio_postgres::Error>> + Send>>;

/// Statements in the queue, which nobody has waited for yet.
#[derive(Default)]
struct Posted {
    answers: Vec<Answer>,
    /// Of their values.
    bytes: usize,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Link {
    /// Connects. Statements may take so long; `settings` are statements that begin the connection.
    ///
    /// # Errors
    /// [`SqlError::Lost`] when there is nobody, else what the server says.
    pub fn open(target: &Target, statement: Duration, settings: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SqlError::Failed(format!("no connection can be served: {error}")))?;
        let tls = Tls(target.tls.clone());
        let connected = runtime.block_on(async { tokio::time::timeout(CONNECT, target.config.connect(tls)).await });
        let (client, connection) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(meaning(&error)),
            Err(_) => return Err(SqlError::Lost(format!("{target} does not answer"))),
        };
        runtime.spawn(async move {
            // How it ended is told to whoever waits for an answer.
            let _ = connection.await;
        });
        let link = Self {
            runtime: Some(runtime),
            client: Arc::new(client),
            statements: RefCell::default(),
            posted: RefCell::default(),
            patience: statement + SILENCE,
        };
        link.batch(&format!(
            "SET statement_timeout = {}; SET client_min_messages = warning; {settings}",
            statement.as_millis()
        ))?;
        Ok(link)
    }

    fn wait<T>(&self, answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>) -> Result<T> {
        let Some(runtime) = &self.runtime else { return Err(SqlError::Lost("it was closed".into())) };
        let posted = self.posted.take();
        runtime.block_on(async {
            let mut answer = pin!(answer);
            // Sent behind what was posted, before any answer is waited for.
            let early = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
            for answer in posted.answers {
                self.in_time(answer).await?;
            }
            match early {
                Poll::Ready(answer) => answer.map_err(|error| meaning(&error)),
                Poll::Pending => self.in_time(answer).await,
            }
        })
    }

    /// Each statement may take its time.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer.map_err(|error| meaning(&error)),
            Err(_) => Err(SqlError::Lost("the server is silent".into())),
        }
    }

    /// See [`super::Connection::post`].
    pub(super) fn post(&self, sql: &str, params: &impl Params) -> Result<()> {
        let statement = self.prepared(sql, params)?;
        let values: Vec<Value<'static>> = values(params).into_iter().map(Value::into_owned).collect();
        let bytes = values.iter().map(Value::bytes).sum::<usize>();
        let client = Arc::clone(&self.client);
        let mut answer = Box::pin(async move { client.execute_raw(&statement, values).await });
        // The first poll puts it into the connection's queue. Whoever waits next polls it again.
        if let Poll::Ready(done) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done.map(drop).map_err(|error| meaning(&error));
        }
        let much = {
            let mut posted = self.posted.borrow_mut();
            posted.answers.push(answer);
            posted.bytes += bytes;
            posted.answers.len() >= POSTED || posted.bytes >= POSTED_BYTES
        };
        if much { self.settle() } else { Ok(()) }
    }

    /// See [`super::Connection::settle`].
    pub(super) fn settle(&self) -> Result<()> {
        if self.posted.borrow().answers.is_empty() {
            return Ok(());
        }
        self.wait(async { Ok(()) })
    }

    fn prepared(&self, sql: &str, params: &impl Params) -> Result<Statement> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let types: Vec<Type> = (0..params.count())
            .map(|index| match params.param(index).kind() {
                Kind::Integer => Type::INT8,
                Kind::Real => Type::FLOAT8,
                Kind::Text => Type::TEXT,
                Kind::Blob => Type::BYTEA,
            })
            .collect();
        let statement = self.wait(self.client.prepare_typed(&places(sql), &types))?;
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= STATEMENTS {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// See [`super::Connection::execute`].
    pub(super) fn execute(&self, sql: &str, params: &impl Params) -> Result<usize> {
        let statement = self.prepared(sql, params)?;
        let values = values(params);
        let rows = self.wait(self.client.execute_raw(&statement, values.iter()))?;
        Ok(usize::try_from(rows).unwrap_or(usize::MAX))
    }

    pub(super) fn first(&self, sql: &str, params: &impl Params) -> Result<Option<tokio_postgres::Row>> {
        let mut first = None;
        let statement = self.prepared(sql, params)?;
        let values = values(params);
        self.wait(async {
            let mut rows = pin!(self.client.query_raw(&statement, values.iter()).await?);
            // To its end, for a statement that also changes something.
            while let Some(row) = rows.try_next().await? {
                first.get_or_insert(row);
            }
            Ok(())
        })?;
        Ok(first)
    }

    pub(super) fn each(
        &self,
        sql: &str,
        params: &impl Params,
        mut wanted: impl FnMut(&tokio_postgres::Row) -> Result<bool>,
    ) -> Result<()> {
        let statement = self.prepared(sql, params)?;
        let values = values(params);
        let mut rows = pin!(self.wait(self.client.query_raw(&statement, values.iter()))?);
        while let Some(row) = self.wait(rows.try_next())? {
            if !wanted(&row)? {
                break;
            }
        }
        Ok(())
    }

    /// Runs statements without values, in one message.
    ///
    /// # Errors
    /// [`SqlError`], of the first that failed; those behind it were not run.
    pub fn batch(&self, sql: &str) -> Result<()> {
        self.wait(self.client.batch_execute(sql))
    }
}

fn values(params: &impl Params) -> Vec<Value<'_>> {
    (0..params.count()).map(|index| params.param(index).value()).collect()
}

/// The same statement with its places as PostgreSQL writes them.
fn places(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 8);
    let mut quoted = false;
    let mut next = 1;
    let mut characters = sql.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '?' if !quoted => {
                out.push('$');
                if !characters.peek().is_some_and(char::is_ascii_digit) {
                    out.push_str(&next.to_string());
                    next += 1;
                }
            }
            other => {
                quoted ^= other == '\'';
                out.push(other);
            }
        }
    }
    out
}

/// What a server or its connection says, with the reason behind it.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
        (None, Some(reason)) => format!("{error}: {reason}"),
        (None, None) => error.to_string(),
    }
}

fn meaning(error: &tokio_postgres::Error) -> SqlError {
    let text = said(error);
    let Some(code) = error.code() else {
        return if error.source().is_some_and(|source| source.is::<Misfit>()) {
            SqlError::Failed(text)
        } else {
            SqlError::Lost(text)
        };
    };
    match code {
        &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED => SqlError::Conflict(text),
        &SqlState::UNIQUE_VIOLATION => SqlError::Unique(text),
        &SqlState::DISK_FULL => SqlError::Full,
        &SqlState::LOCK_NOT_AVAILABLE => SqlError::Busy(text),
        // The server is stopping, starting, read-only after a switch to another, or has no place.
        &SqlState::ADMIN_SHUTDOWN
        | &SqlState::CRASH_SHUTDOWN
        | &SqlState::CANNOT_CONNECT_NOW
        | &SqlState::TOO_MANY_CONNECTIONS
        | &SqlState::READ_ONLY_SQL_TRANSACTION
        | &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => SqlError::Lost(text),
        code if code.code().starts_with("08") || code.code() == "57P05" => SqlError::Lost(text),
        _ => SqlError::Failed(text),
    }
}

/// A value that its column does not take.
#[derive(Debug, thiserror::Error)]
#[error("a {0} does not fit")]
struct Misfit(Type);

type Converted<T> = std::result::Result<T, Box<dyn Error + Sync + Send>>;

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Converted<IsNull> {
        match (self, kind) {
            (Self::Null, _) => return Ok(IsNull::Yes),
            (Self::Integer(number), &Type::INT8) => out.extend_from_slice(&number.to_be_bytes()),
            (Self::Real(number), &Type::FLOAT8) => out.extend_from_slice(&number.to_be_bytes()),
            (Self::Text(text), &Type::TEXT) => out.extend_from_slice(stored(text).as_bytes()),
            (Self::Blob(bytes), &Type::BYTEA) => out.extend_from_slice(bytes),
            (_, kind) => return Err(Box::new(Misfit(kind.clone()))),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Value<'r> {
    fn from_sql(kind: &Type, raw: &'r [u8]) -> Converted<Self> {
        Ok(match kind {
            &Type::INT8 => Self::Integer(i64::from_be_bytes(raw.try_into()?)),
            &Type::INT4 => Self::Integer(i64::from(i32::from_be_bytes(raw.try_into()?))),
            &Type::BOOL => Self::Integer(i64::from(raw != [0])),
            &Type::FLOAT8 => Self::Real(f64::from_be_bytes(raw.try_into()?)),
            &Type::FLOAT4 => Self::Real(f64::from(f32::from_be_bytes(raw.try_into()?))),
            &Type::TEXT | &Type::NAME | &Type::VARCHAR | &Type::UNKNOWN => Self::Text(told(std::str::from_utf8(raw)?)),
            &Type::BYTEA => Self::Blob(Cow::Borrowed(raw)),
            other => return Err(Box::new(Misfit(other.clone()))),
        })
    }

    fn from_sql_null(_: &Type) -> Converted<Self> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// PostgreSQL stores every character but NUL, which JSON has: it stands as this one, which is none of a script, and a zero.
/// The character itself is followed by a one.
const ESCAPE: char = '\u{10fffe}';

fn stored(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => stored.extend([ESCAPE, '0']),
            ESCAPE => stored.extend([ESCAPE, '1']),
            other => stored.push(other),
        }
    }
    Cow::Owned(stored)
}

fn told(stored: &str) -> Cow<'_, str> {
    if !stored.contains(ESCAPE) {
        return Cow::Borrowed(stored);
    }
    let mut told = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        told.push(match character {
            ESCAPE if characters.next() == Some('0') => '\0',
            other => other,
        });
    }
    Cow::Owned(told)
}

// ----------------------------------------------------------------------------------------------------------------- TLS

#[derive(Clone)]
struct Tls(Option<Arc<ClientConfig>>);

struct TlsTo {
    config: Option<Arc<ClientConfig>>,
    name: String,
}

struct Secured(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Secured;
    type TlsConnect = TlsTo;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<TlsTo> {
        Ok(TlsTo { config: self.0.clone(), name: domain.to_owned() })
    }
}

impl TlsConnect<Socket> for TlsTo {
    type Stream = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let Some(config) = self.config else { return Err(io::Error::other("TLS is not set up")) };
            let name = ServerName::try_from(self.name).map_err(io::Error::other)?;
            tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map(Secured)
        })
    }
}

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_outside_of_quotes() {
        assert_eq!(places("a = ?2 AND b = ?1"), "a = $2 AND b = $1");
        assert_eq!(places("a = ? AND b = '?' AND c = ?"), "a = $1 AND b = '?' AND c = $2");
    }

    #[test]
    fn every_text_comes_back_as_it_was() {
        for text in ["", "a", "a\0b", "\0\0", "\u{10fffe}", "\u{10fffe}0\u{10fffe}1\0", "\u{10ffff}"] {
            assert!(!stored(text).contains('\0'));
            assert_eq!(told(&stored(text)), text);
        }
        assert!(matches!((stored("plain"), told("plain")), (Cow::Borrowed(_), Cow::Borrowed(_))));
    }

    #[test]
    fn a_url_says_how_to_get_in_and_its_password_is_never_shown() {
        let target = Target::parse("postgres://me:secret@localhost:5433/facts?connect_timeout=1").expect("a target");
        assert_eq!(format!("{target} {target:?}"), "localhost/facts Target(\"localhost/facts\")");
        assert!(target.tls.is_none(), "on this machine");
        assert!(Target::parse("postgres:///facts?host=/run/postgresql").expect("a socket").tls.is_none());
        assert!(Target::parse("postgres://me@db.example/facts?sslmode=disable").expect("in the clear").tls.is_none());
        for (wrong, says) in [
            ("host=localhost", "such as postgres://"),
            ("postgres://me:secret@db/facts?sslmode=prefer", "`require`"),
            ("postgres://me:secret@db/facts?sslrootcert=/none.pem", "/none.pem"),
            ("postgres://me:secret@db/facts?nonsense=1", "nonsense"),
            ("postgres:///facts", "must name a host"),
            ("postgres://me:secret@db", "must name a database"),
        ] {
            let error = Target::parse(wrong).expect_err(wrong);
            assert!(error.contains(says) && !error.contains("secret"), "{wrong}: {error}");
        }
    }
}
