//! TLS to PostgreSQL: a real server with a certificate, that lets nobody in by its port without TLS.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::postgres::Server;
use crate::process::{Place, on_disk};

/// A root, and a certificate of it for `localhost` alone: PEM of the root, of the certificate, and of its key.
fn certificates(name: &str) -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &root).unwrap();
    (root.pem(), certificate.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_the_database_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (root, certificate, key) = certificates("ours");
    let server = tokio::task::spawn_blocking(move || {
        let server = Server::start_on_a_port();
        let (certificate, key) = (server.place("server.pem", &certificate), server.place("server.key", &key));
        server.place("data/pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n");
        server.stop();
        let files = [("ssl_cert_file", certificate), ("ssl_key_file", key)];
        let files = files.map(|(setting, path)| format!("{setting}={}", path.display()));
        server.run_with(&["ssl=on", &files[0], &files[1]]);
        server.sql("postgres", "CREATE DATABASE landfall");
        server
    })
    .await
    .unwrap();
    let pem = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("&sslrootcert={}", path.display())
    };
    let (ours, others) = (pem("ours.pem", &root), pem("others.pem", &certificates("others").0));
    let at = |host: &str, how: String| {
        let url = format!("{}?sslmode={how}", server.url_at(host, "landfall"));
        let data = folder.path().join(landfall::clock::random_uuid().to_string());
        Place { data, database: Some(url), storage: "disk".into(), ..on_disk(folder.path()) }
    };

    // Who is refused is tried for as long as a database may take to start: all at once.
    let refused = [
        (at("localhost", format!("verify-full{others}")), "UnknownIssuer"),
        (at("127.0.0.1", format!("verify-full{ours}")), "not valid for name"),
        (at("localhost", format!("require{others}")), "UnknownIssuer"),
        (at("127.0.0.1", format!("require{ours}")), "not valid for name"),
        // By the system's roots.
        (at("localhost", "verify-full".into()), "UnknownIssuer"),
        (at("localhost", "require".into()), "UnknownIssuer"),
        (at("localhost", "disable".into()), "pg_hba"),
    ];
    let refused = refused.into_iter().map(|(place, why)| async move {
        let said = place.serve().await.expect_err("it is refused");
        assert!(said.contains(why), "{:?}: {said}", place.database);
    });
    futures_util::future::join_all(refused).await;
    for how in ["prefer", "allow", "verify-ca"] {
        let said = at("localhost", format!("{how}{ours}")).serve().await.expect_err("it is refused");
        assert!(said.contains(how) && said.contains("use `require`"), "{said}");
    }

    let data = at("localhost", String::new()).data;
    for how in ["verify-full", "require"] {
        let place = Place { data: data.clone(), ..at("localhost", format!("{how}{ours}")) };
        let mut running = place.serve().await.unwrap();
        let lines =
            "SELECT count(*) || ' ' || count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE application_name = 'landfall'";
        let lines = server.sql("landfall", lines);
        let (all, secured) = lines.split_once(' ').unwrap();
        assert!(all == secured && all != "0", "{how}: {lines}");
        let (whole, said) = place.doctor().await;
        assert!(whole, "{said}");
        running.kill();
    }
}
