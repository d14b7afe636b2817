//! `landfall serve`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::notify::Notify;
use super::{Place, failed};
use crate::app::{App, FirstStart, StartError};
use crate::clock::Clock;
use crate::config::{self, Config, ConfigError, LogFormat};
use crate::{faults, telemetry};

/// Arguments of `landfall serve`. Each is also a field of the configuration file.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    place: Place,
    /// The PostgreSQL database for facts and full text, such as postgres://user@host/database; better in the file or in
    /// LANDFALL_DATABASE when it has a password [default: in the data directory]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The address to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The URL under which clients reach the server, when a proxy stands in front of it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Where bytes are kept: `disk`, a bucket such as s3://bucket/prefix?region=eu-1 or gs://bucket/prefix, or a container such
    /// as az://account/container/prefix [default: disk]
    #[arg(long, value_name = "WHERE")]
    storage: Option<String>,
    /// Where else there are bytes, in the same form; may be repeated [default: nowhere]
    #[arg(long, value_name = "WHERE")]
    more_storage: Vec<String>,
    /// The APIs whose clients send to the store themselves, such as `native,coveo` [default: none]
    #[arg(long, value_name = "APIS")]
    direct: Option<String>,
    /// The largest container, such as 2GiB [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    container_max: Option<String>,
}

impl Serve {
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = self.place.config()?;
        if let Some(database) = &self.database {
            config.set_text("database", database)?;
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(url) = &self.public_url {
            config.public_url = Some(url.clone());
        }
        if let Some(storage) = &self.storage {
            config.set_text("storage", storage)?;
        }
        if !self.more_storage.is_empty() {
            config.set_text("more_storage", &self.more_storage.join(" "))?;
        }
        if let Some(direct) = &self.direct {
            config.set_text("direct", direct)?;
        }
        if let Some(size) = &self.container_max {
            config.set_text("container_max", size)?;
        }
        config.validate()?;
        Ok(config)
    }

    pub(super) fn run(&self) -> ExitCode {
        faults::setup();
        // Every connection and every segment is a file; the usual soft limit of 1024 is for programs that use `select`.
        let mut files = getrlimit(Resource::Nofile);
        files.current = files.maximum;
        let _ = setrlimit(Resource::Nofile, files);
        let config = match self.config() {
            Ok(config) => config,
            Err(error) => return failed(&error),
        };
        if let Err(error) = telemetry::init(config.log_format == LogFormat::Json, &config.log_filter) {
            return failed(&error);
        }
        // The planes have their own runtimes; this one waits for signals.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error),
        };
        match runtime.block_on(serve(config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    }
}

async fn serve(config: Config) -> Result<(), StartError> {
    let scheme = if config.tls_certificate.is_some() { "https" } else { "http" };
    let name = config.acme_domains.first().cloned();
    let public = config.public_url.clone();
    let clock = Clock::system();
    faults::move_clock(&clock);
    // Before the port is bound: a signal that comes while it starts ends it as one that comes later does.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let app = App::start(config, clock).await?;
    let base = match (public, name) {
        (Some(public), _) => public,
        // The certificate is for names, not for an address.
        (None, Some(name)) if app.address().port() == 443 => format!("https://{name}"),
        (None, Some(name)) => format!("https://{name}:{}", app.address().port()),
        (None, None) => format!("{scheme}://{}", app.address()),
    };
    if let Some(first) = app.first_start() {
        introduce(&base, first);
        faults::point("start.shown");
        app.first_key_shown().await?;
    } else {
        println!("Landfall listens on {base}");
    }
    let notify = Notify::new(config::supervisor().as_ref());
    notify.ready();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = notify.runs(&app) => {}
    }
    notify.stopping();
    tracing::info!("stopping: running bodies may end; a second signal stops at once");
    tokio::select! {
        () = app.stop() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Whatever a background thread still does, nobody waits for it.
    tokio::time::sleep(Duration::ZERO).await;
    Ok(())
}

/// What the first start made, with lines to paste.
fn introduce(base: &str, first: &FirstStart) {
    let FirstStart { tenant, key, source, catalog, .. } = first;
    println!(
        r#"Landfall listens on {base}

This is the first start. It made the tenant `{tenant}`, the sources `{source}` and `{catalog}` (for streams),
and this key, which is shown only now:

    {key}

All of the following needs these two lines. The file is too large for the body of a push.

    export LANDFALL_URL={base} LANDFALL_KEY={key}
    (echo "a needle in the haystack"; head -c 6100000 /dev/urandom | base64) > big.txt

Send the file with Landfall's own client, which goes on where it was cut off; list it, fetch it.

    FILE=$(landfall put big.txt | cut -d " " -f 1)
    landfall ls
    landfall get "$FILE" --force --output copy.txt

Push a file (Coveo Push API): ask for a container, PUT the bytes, push the item, find it.

    python3 -c "import sys,zlib; sys.stdout.buffer.write(zlib.compress(open('big.txt','rb').read()))" > big.zlib
    curl -sS -X POST "$LANDFALL_URL/push/v1/organizations/{tenant}/files" \
         -H "Authorization: Bearer $LANDFALL_KEY" -H "Content-Type: application/json" -d '{{}}' > container.json
    FILE_ID=$(python3 -c "import json; print(json.load(open('container.json'))['fileId'])")
    UPLOAD_URI=$(python3 -c "import json; print(json.load(open('container.json'))['uploadUri'])")
    curl -sS -f "$UPLOAD_URI" -H "Content-Type: application/octet-stream" \
         -H "x-amz-server-side-encryption: AES256" -T big.zlib
    curl -sS -X PUT "$LANDFALL_URL/push/v1/organizations/{tenant}/sources/{source}/documents?documentId=http://mydocument" \
         -H "Authorization: Bearer $LANDFALL_KEY" -H "Content-Type: application/json" \
         -d '{{"FileExtension": ".txt", "title": "My large document", "CompressedBinaryDataFileId": "'$FILE_ID'"}}'
    sleep 2
    curl -sS "$LANDFALL_URL/landfall/v1/sources/{source}/items?query=needle" -H "Authorization: Bearer $LANDFALL_KEY"

Upload a file (Aitronos Files API): ask for an upload URL, send the bytes, register the file, list it.

    curl -sS -X POST "$LANDFALL_URL/v1/organizations/{tenant}/files/upload-url" \
         -H "X-API-Key: $LANDFALL_KEY" -H "Content-Type: application/json" \
         -d '{{"filename": "big.txt", "file_size": '$(stat -c %s big.txt)', "mime_type": "text/plain"}}' > session.json
    UPLOAD_URL=$(python3 -c "import json; print(json.load(open('session.json'))['upload_url'])")
    GCS_PATH=$(python3 -c "import json; print(json.load(open('session.json'))['gcs_path'])")
    curl -sS -f "$UPLOAD_URL" -H "Content-Type: text/plain" -T big.txt
    curl -sS -X POST "$LANDFALL_URL/v1/organizations/{tenant}/files" \
         -H "X-API-Key: $LANDFALL_KEY" -H "Content-Type: application/json" \
         -d '{{"filename": "big.txt", "gcs_path": "'$GCS_PATH'", "file_size": '$(stat -c %s big.txt)', "mime_type": "text/plain"}}'
    curl -sS "$LANDFALL_URL/v1/organizations/{tenant}/files" -H "X-API-Key: $LANDFALL_KEY"
"#
    );
    introduce_stores(first);
    introduce_catalogue(first);
}

/// A store's file from its upload to a search.
fn introduce_stores(first: &FirstStart) {
    let FirstStart { tenant, store, .. } = first;
    println!(
        r#"Upload a file into the store `default` (Aitronos Knowledge API), and find it by its text once it is processed.

    echo "The lighthouse keeper counts the ships at dusk." > keeper.txt
    curl -sS -X POST "$LANDFALL_URL/v1/organizations/{tenant}/stores/{store}/files/upload-url" \
         -H "Authorization: Bearer $LANDFALL_KEY" -H "Content-Type: application/json" \
         -d '{{"file_name": "keeper.txt", "file_size": '$(wc -c < keeper.txt)', "mime_type": "text/plain"}}' > store-upload.json
    curl -sS -f -X PUT "$(python3 -c "import json; print(json.load(open('store-upload.json'))['signed_url'])")" \
         -H "Content-Type: text/plain" -T keeper.txt
    curl -sS -X POST "$LANDFALL_URL/v1/organizations/{tenant}/stores/{store}/files/register" \
         -H "Authorization: Bearer $LANDFALL_KEY" -H "Content-Type: application/json" \
         -d '{{"upload_id": "'$(python3 -c "import json; print(json.load(open('store-upload.json'))['upload_id'])")'"}}'
    sleep 2
    curl -sS "$LANDFALL_URL/landfall/v1/stores/{store}/search?query=lighthouse" -H "Authorization: Bearer $LANDFALL_KEY"
"#
    );
}

/// A file in parts from its declaration to a link.
fn introduce_catalogue(first: &FirstStart) {
    let FirstStart { tenant, .. } = first;
    println!(
        r#"Upload a file in parts (Cognite Files API): declare it, PUT each part, complete it, ask for a link.

    FILES="$LANDFALL_URL/api/v1/projects/{tenant}/files"
    curl -sS -X POST "$FILES/initmultipartupload?parts=2" -H "Authorization: Bearer $LANDFALL_KEY" \
         -H "Content-Type: application/json" -d '{{"name": "big.txt", "externalId": "big-1"}}' > parts.json
    part() {{ python3 -c "import json, sys; print(json.load(open('parts.json'))['uploadUrls'][int(sys.argv[1])])" "$1"; }}
    head -c 5242880 big.txt | curl -sS -f -T - "$(part 0)"
    tail -c +5242881 big.txt | curl -sS -f -T - "$(part 1)"
    UPLOAD_ID=$(python3 -c "import json; print(json.load(open('parts.json'))['uploadId'])")
    curl -sS -X POST "$FILES/completemultipartupload" -H "Authorization: Bearer $LANDFALL_KEY" \
         -H "Content-Type: application/json" -d '{{"externalId": "big-1", "uploadId": "'$UPLOAD_ID'"}}'
    curl -sS -X POST "$FILES/downloadlink" -H "Authorization: Bearer $LANDFALL_KEY" \
         -H "Content-Type: application/json" -d '{{"items": [{{"externalId": "big-1"}}]}}'
"#
    );
}
