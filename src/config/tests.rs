//! Configurations that hold, and what is said of others.

use super::*;

fn from(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("landfall.toml");
    std::fs::write(&path, file).expect("a file");
    Config::read(Some(&path), environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
}

fn error(file: &str) -> String {
    from(file, &[]).expect_err(file).to_string()
}

#[test]
fn the_environment_goes_over_the_file_and_both_over_the_defaults() {
    let config = from(
        "data = '/d'\ncontainer_max = '5GiB'\nworkers = 3\ncors_origins = ['https://*.example.com']",
        &[
            ("LANDFALL_WORKERS", "4"),
            ("LANDFALL_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("LANDFALL_CREATE_PROVIDERS", "true"),
            ("LANDFALL_PORT", "tcp://10.0.0.1:80"),
            ("landfall_data", "/other"),
        ],
    )
    .expect("a configuration");
    assert_eq!(config.data, PathBuf::from("/d"));
    assert_eq!(config.container_max, 5 << 30);
    assert_eq!(config.workers, 4);
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8", "::1"]);
    assert!(config.create_providers);
    assert_eq!(config.cors_origins, ["https://*.example.com"]);
    assert_eq!(config.listen, Config::default().listen);
    assert_eq!(Config::read(None, []).expect("the defaults hold"), Config::default());
}

#[test]
fn every_field_is_reachable() {
    for field in FIELDS {
        let unknown = Config::default().set(field, &Value::Boolean(false));
        assert!(!matches!(unknown, Err(ConfigError::Unknown { .. })), "{field}");
    }
    let debug = format!("{:?}", Config::default());
    assert_eq!(debug.matches(": ").count(), FIELDS.len(), "{debug}");
}

#[test]
fn errors_name_field_value_and_remedy() {
    for (file, parts) in [
        ("datta = 'x'", ["`datta`", "fields are", "data, database, storage, more_storage, direct, listen"]),
        ("listen = 'localhost'", ["`listen`", "`localhost`", "127.0.0.1:8080"]),
        ("container_max = '5 gigs'", ["`container_max`", "`5 gigs`", "GiB"]),
        ("container_max = 0", ["`container_max`", "`0`", "between 1 and"]),
        ("container_max = '6TiB'", ["`container_max`", "`6597069766656`", "between 1 and"]),
        ("free_space_min = -1", ["`free_space_min`", "`-1`", "number of bytes"]),
        ("connections_max = 0", ["`connections_max`", "`0`", "between 1"]),
        ("workers = -1", ["`workers`", "`-1`", "not negative"]),
        ("tls_key = 'k.pem'", ["`tls_certificate`", "``", "set both"]),
        ("tls_certificate = 'c.pem'", ["`tls_key`", "``", "set both"]),
        ("acme_domains = ['*.example.com']", ["`acme_domains`", "`*.example.com`", "no wildcard"]),
        ("acme_domains = ['192.0.2.1']", ["`acme_domains`", "`192.0.2.1`", "not an address"]),
        ("acme_domains = ['A.example.com']", ["`acme_domains`", "`A.example.com`", "lower case"]),
        ("acme_domains = ['a.example.com/']", ["`acme_domains`", "`a.example.com/`", "host name"]),
        ("acme_domains = ['a..example.com']", ["`acme_domains`", "`a..example.com`", "host name"]),
        ("acme_domains = ['a.b', 'a.b']", ["`acme_domains`", "`a.b`", "twice"]),
        ("acme_domains = ['a.b']", ["`acme_terms_agreed`", "`false`", "terms of service"]),
        (
            "acme_domains = ['a.b']\ntls_certificate = 'c.pem'\ntls_key = 'k.pem'",
            ["`acme_domains`", "`a.b`", "`tls_certificate`"],
        ),
        ("acme_contact = 'me@example.com'", ["`acme_contact`", "`me@example.com`", "`acme_domains`"]),
        ("acme_ca = 'roots.pem'", ["`acme_ca`", "`roots.pem`", "`acme_domains`"]),
        ("acme_terms_agreed = true", ["`acme_terms_agreed`", "`true`", "`acme_domains`"]),
        ("acme_directory = 'https://ca.example/dir'", ["`acme_directory`", "https://ca", "`acme_domains`"]),
        (
            "acme_domains = ['a.b']\nacme_terms_agreed = true\nacme_directory = 'http://ca.example/dir'",
            ["`acme_directory`", "`http://ca.example/dir`", "https://"],
        ),
        (
            "acme_domains = ['a.b']\nacme_terms_agreed = true\nacme_contact = 'mailto:me@example.com'",
            ["`acme_contact`", "`mailto:me@example.com`", "without `mailto:`"],
        ),
        ("cors_origins = ['https://*.*']", ["`cors_origins`", "`https://*.*`", "at most one"]),
        ("trusted_proxies = ['10.0.0.0/33']", ["`trusted_proxies`", "`10.0.0.0/33`", "10.0.0.0/8"]),
        ("public_url = 'files.example.com'", ["`public_url`", "`files.example.com`", "https://"]),
        ("public_url = 'ftp://a'", ["`public_url`", "`ftp://a`", "http://"]),
        ("public_url = 'http://a/?x=1'", ["`public_url`", "`http://a/?x=1`", "no query"]),
        ("public_url = 'https://A.example:443'", ["`public_url`", "`https://A.example:443`", "lower case"]),
        ("log_format = 'xml'", ["`log_format`", "`xml`", "`text`"]),
        ("log_filter = 'a=b=c'", ["`log_filter`", "`a=b=c`", "info"]),
        ("create_providers = 'yes'", ["`create_providers`", "`yes`", "true or false"]),
        ("rate_limit = 0", ["`rate_limit`", "`0`", "between 1"]),
        ("rate_burst = 5", ["`rate_burst`", "`5`", "`rate_limit`"]),
        ("admin_listen = '127.0.0.1:8080'", ["`admin_listen`", "`127.0.0.1:8080`", "another port"]),
        ("database = 'me:secret@db'", ["`database`", "`…`", "postgres://"]),
        ("data = [", ["not TOML", "landfall.toml", ""]),
    ] {
        let message = error(file);
        assert!(!message.contains("secret"), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{file}: {message}");
    }
    let many: Vec<String> = (0..=100).map(|i| format!("'h{i}.example.com'")).collect();
    let message = error(&format!("acme_terms_agreed = true\nacme_domains = [{}]", many.join(",")));
    assert!(message.contains("`101 names`") && message.contains("100"), "{message}");
    let missing = Config::read(Some(Path::new("/none.toml")), []).expect_err("no file").to_string();
    assert!(missing.contains("/none.toml"), "{missing}");
}

#[test]
fn more_places_are_a_list_or_words() {
    let config = from("more_storage = ['disk', 's3://bytes/a,b?region=x']", &[]).expect_err("no prefix has a comma");
    assert!(config.to_string().contains("`more_storage`"), "{config}");
    let file = from("storage = 's3://new'\nmore_storage = ['disk', 's3://old/x']", &[]).expect("valid");
    let words = from("storage = 's3://new'", &[("LANDFALL_MORE_STORAGE", " disk\ts3://old/x ")]).expect("valid");
    assert_eq!(file.more_storage.len(), 2);
    assert_eq!(file.more_storage, words.more_storage);
    assert_eq!(from("", &[("LANDFALL_MORE_STORAGE", "")]).expect("valid").more_storage, []);
    let secret = from("more_storage = 's3://key:secret@bytes'", &[]).expect_err("no key").to_string();
    assert!(!secret.contains("secret"), "{secret}");
}

#[test]
fn certificates_are_ordered_for_names() {
    let config = from(
        "acme_terms_agreed = true\nacme_contact = 'ops@example.com'",
        &[("LANDFALL_ACME_DOMAINS", "uploads.example.com, xn--bcher-kva.example")],
    )
    .expect("a configuration");
    assert_eq!(config.acme_domains, ["uploads.example.com", "xn--bcher-kva.example"]);
    assert_eq!(config.acme_directory, "https://acme-v02.api.letsencrypt.org/directory");
}

#[test]
fn a_database_s_password_is_not_shown() {
    let config = from("database = 'postgres://me:secret@db/facts'", &[]).expect("a configuration");
    assert!(config.database.as_ref().is_some_and(|url| url.secret().contains("secret")));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn the_public_url_is_taken_apart() {
    let of = |url: &str| from(&format!("public_url = '{url}'"), &[]).expect(url);
    let config = of("https://files.example.com:8443/up/load/");
    assert_eq!(config.public_url.as_deref(), Some("https://files.example.com:8443/up/load"));
    assert_eq!((config.public_host(), config.public_prefix()), (Some("files.example.com:8443"), "/up/load"));
    let config = of("http://[::1]:8080/");
    assert_eq!((config.public_host(), config.public_prefix()), (Some("[::1]:8080"), ""));
    assert_eq!((Config::default().public_host(), Config::default().public_prefix()), (None, ""));
}

#[test]
fn proxies_are_addresses_or_networks() {
    let config = from("trusted_proxies = ['10.1.0.0/16', '192.168.0.7', 'fd00::/8', '::1']", &[]).expect("valid");
    for yes in ["10.1.2.3", "192.168.0.7", "fd12::1", "::1", "::ffff:10.1.2.3"] {
        assert!(config.trusts(yes.parse().expect(yes)), "{yes}");
    }
    for no in ["10.2.0.1", "192.168.0.8", "fe00::1", "::2", "127.0.0.1"] {
        assert!(!config.trusts(no.parse().expect(no)), "{no}");
    }
    let all = from("trusted_proxies = ['0.0.0.0/0']", &[]).expect("valid");
    assert!(all.trusts("1.2.3.4".parse().expect("v4")) && !all.trusts("::1".parse().expect("v6")));
}

#[test]
fn every_field_is_in_the_operator_s_manual() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    for field in FIELDS {
        let row = format!("| `{field}` | `LANDFALL_{}` |", field.to_ascii_uppercase());
        assert!(manual.contains(&row), "{row}");
    }
}
