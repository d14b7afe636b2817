//! Where bytes are kept, as the configuration says it: on the data directory's disk, in a bucket, or in a container.

use std::path::PathBuf;

use url::Url;

/// Where bytes are kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Storage {
    /// In the data directory.
    #[default]
    Disk,
    /// In a bucket.
    Bucket(Bucket),
    /// In a container of Azure Blob Storage.
    Container(Container),
}

/// What a store speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speech {
    /// S3, as Amazon's and many others do.
    S3,
    /// Google Cloud Storage's XML.
    Google,
}

impl Speech {
    /// How URLs of such buckets begin.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
        }
    }

    /// What may follow such a bucket.
    const fn fields(self) -> &'static str {
        match self {
            Self::S3 => "endpoint, public_endpoint, region, path_style, checksums, credentials and profile",
            Self::Google => "endpoint, public_endpoint, credentials and signer",
        }
    }
}

/// A bucket, and how it is reached. It holds no secret: credentials come from the environment, a file or the cloud.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// What its store speaks.
    pub speech: Speech,
    /// Its name.
    pub name: String,
    /// What every key begins with: empty, or with a slash at its end.
    pub prefix: String,
    /// `scheme://host[:port]` of the store; without it Amazon's own, or Google's.
    pub endpoint: Option<String>,
    /// The same as clients reach it that send to it themselves, where that is another one.
    pub public_endpoint: Option<String>,
    /// The region that requests are signed for; without it the environment's, or `us-east-1`.
    pub region: Option<String>,
    /// Does the bucket's name stand in the path, and not in the host?
    pub path_style: bool,
    /// Does every body carry a checksum for the store to verify?
    pub checksums: bool,
    /// A file of credentials, before any other source: in the form of `~/.aws/credentials`, or one of Google's.
    pub credentials: Option<PathBuf>,
    /// Are requests sent without a word about who asks? For emulators.
    pub anonymous: bool,
    /// The service account that signs clients' URLs, where its key is not here.
    pub signer: Option<String>,
    /// The section of that file, or of the shared one.
    pub profile: Option<String>,
}

/// A container of Azure Blob Storage, and how it is reached. It holds no secret either.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Container {
    /// The storage account.
    pub account: String,
    /// The container's name.
    pub name: String,
    /// What every blob's name begins with: empty, or with a slash at its end.
    pub prefix: String,
    /// `scheme://host[:port][/path]` before the container; without it the account's own.
    pub endpoint: Option<String>,
    /// The same as clients reach it that send to it themselves, where that is another one.
    pub public_endpoint: Option<String>,
    /// A file of credentials, one `NAME=VALUE` in each line as the environment has them, before any other source.
    pub credentials: Option<PathBuf>,
}

/// The longest prefix, in bytes: a key has at most 1,024, and a segment's name needs a hundred of them.
const PREFIX_BYTES: usize = 512;

/// The word for no credentials.
const NOBODY: &str = "none";

/// Reads `disk`, `s3://bucket/prefix?endpoint=…`, `gs://bucket/prefix?credentials=…` or `az://account/container/prefix`.
///
/// # Errors
/// A sentence that says what would be right.
pub(super) fn parse(text: &str) -> Result<Storage, String> {
    if text == "disk" {
        return Ok(Storage::Disk);
    }
    let form = "it is `disk`, or looks like s3://bucket/prefix?endpoint=https://storage.example.com&region=eu-1 or \
                gs://bucket/prefix?credentials=/etc/landfall/key.json or az://account/container/prefix";
    let url = Url::parse(text).map_err(|error| format!("{error}; {form}"))?;
    if url.scheme() == "az" {
        return container(&url).map(Storage::Container);
    }
    let Some(speech) = [Speech::S3, Speech::Google].into_iter().find(|speech| speech.scheme() == url.scheme()) else {
        return Err(form.into());
    };
    if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
        return Err(form.into());
    }
    let Some(name) = url.host_str().filter(|name| is_bucket(name)) else {
        return Err(format!(
            "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens (or underscores); {form}"
        ));
    };
    let mut bucket = Bucket {
        speech,
        name: name.to_owned(),
        prefix: prefix(url.path()).ok_or_else(|| format!("{PREFIX}; {form}"))?,
        endpoint: None,
        public_endpoint: None,
        region: None,
        path_style: name.contains('.'),
        checksums: true,
        credentials: None,
        anonymous: false,
        signer: None,
        profile: None,
    };
    let mut path_style = None;
    for (field, value) in url.query_pairs() {
        if value.is_empty() {
            return Err(format!("`{field}` has no value"));
        }
        match (speech, &*field) {
            (_, "public_endpoint") => bucket.public_endpoint = Some(endpoint(&value, false)?),
            (_, "endpoint") => bucket.endpoint = Some(endpoint(&value, false)?),
            (Speech::Google, "credentials") if value == NOBODY => bucket.anonymous = true,
            (Speech::Google, "signer") => bucket.signer = Some(value.into_owned()),
            (Speech::S3, "region") => bucket.region = Some(value.into_owned()),
            (Speech::S3, "path_style") => path_style = Some(boolean(&field, &value)?),
            (Speech::S3, "checksums") => bucket.checksums = boolean(&field, &value)?,
            (_, "credentials") => bucket.credentials = Some(PathBuf::from(value.into_owned())),
            (Speech::S3, "profile") => bucket.profile = Some(value.into_owned()),
            (speech, other) => {
                let known = speech.fields();
                return Err(format!("there is no `{other}`; what may follow the bucket is {known}"));
            }
        }
    }
    if bucket.anonymous && !bucket.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Err("`credentials=none` is for an emulator: it wants an `endpoint` of http://".into());
    }
    bucket.path_style = path_style.unwrap_or(bucket.path_style || bucket.endpoint.is_some());
    Ok(Storage::Bucket(bucket))
}

/// Reads `az://account/container/prefix?endpoint=…`.
fn container(url: &Url) -> Result<Container, String> {
    let form = "it looks like az://account/container/prefix, perhaps with ?endpoint=https://storage.example.com";
    if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
        return Err(form.into());
    }
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_account = |name: &&str| (3..=24).contains(&name.len()) && name.bytes().all(lower);
    let Some(account) = url.host_str().filter(is_account) else {
        return Err(format!("a storage account has 3 to 24 lower-case letters and digits; {form}"));
    };
    let path = url.path().trim_matches('/');
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    let plain = |name: &str| name.bytes().all(|b| lower(b) || b == b'-') && !name.contains("--");
    let ends = |name: &str| name.starts_with('-') || name.ends_with('-');
    if !(3..=63).contains(&name.len()) || !plain(name) || ends(name) {
        return Err(format!("a container has 3 to 63 lower-case letters, digits and single hyphens; {form}"));
    }
    let mut container = Container {
        account: account.to_owned(),
        name: name.to_owned(),
        prefix: prefix(rest).ok_or_else(|| format!("{PREFIX}; {form}"))?,
        endpoint: None,
        public_endpoint: None,
        credentials: None,
    };
    for (field, value) in url.query_pairs() {
        if value.is_empty() {
            return Err(format!("`{field}` has no value"));
        }
        match &*field {
            "endpoint" => container.endpoint = Some(endpoint(&value, true)?),
            "public_endpoint" => container.public_endpoint = Some(endpoint(&value, true)?),
            "credentials" => container.credentials = Some(PathBuf::from(value.into_owned())),
            "sig" | "sv" | "sp" | "se" | "st" | "sr" | "spr" => {
                return Err(
                    "a SAS token does not belong here: set AZURE_STORAGE_SAS_TOKEN, or name a file that says it with \
                            `credentials=`"
                        .into(),
                );
            }
            other => {
                let known = "endpoint, public_endpoint and credentials";
                return Err(format!("there is no `{other}`; what may follow the container is {known}"));
            }
        }
    }
    Ok(container)
}

/// What is said where a prefix can't be one.
const PREFIX: &str = "a prefix has at most 512 letters, digits, and characters of /-_.";

/// What names begin with under this path.
fn prefix(path: &str) -> Option<String> {
    let prefix = path.trim_matches('/');
    let plain = prefix.len() <= PREFIX_BYTES && prefix.bytes().all(is_plain);
    plain.then(|| if prefix.is_empty() { String::new() } else { format!("{prefix}/") })
}

fn is_bucket(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    (3..=63).contains(&name.len()) && name.bytes().all(ok)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.')
}

/// An address of a store, with a path only where it may have one.
fn endpoint(text: &str, path: bool) -> Result<String, String> {
    // What does not belong into an address may be a secret.
    let shown = if text.contains(['@', '?', '#']) { "(not shown)" } else { text };
    let wrong =
        || format!("the endpoint `{shown}` is no address such as https://storage.example.com or http://10.0.0.7:3900");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && (path || url.path() == "/")
        && url.query().is_none()
        && url.fragment().is_none();
    if plain { Ok(url.as_str().trim_end_matches('/').to_owned()) } else { Err(wrong()) }
}

fn boolean(field: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("`{field}` can't be `{other}`: it is `true` or `false`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(text: &str) -> Bucket {
        match parse(text).expect(text) {
            Storage::Bucket(bucket) => bucket,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn a_bucket_is_named_by_a_url() {
        assert_eq!(parse("disk"), Ok(Storage::Disk));
        let plain = bucket("s3://bytes");
        assert_eq!((plain.name.as_str(), plain.prefix.as_str(), plain.path_style), ("bytes", "", false));
        assert!(plain.checksums && plain.endpoint.is_none());
        assert!(bucket("s3://bytes.example.com").path_style, "a certificate covers one label");
        let all = bucket(
            "s3://bytes/a/b/?endpoint=http://127.0.0.1:3900&region=garage&checksums=false&credentials=/etc/s3.ini&profile=x",
        );
        assert_eq!(all.prefix, "a/b/");
        assert_eq!(all.endpoint.as_deref(), Some("http://127.0.0.1:3900"));
        assert_eq!((all.region.as_deref(), all.profile.as_deref()), (Some("garage"), Some("x")));
        assert!(all.path_style && !all.checksums && all.public_endpoint.is_none());
        let two = bucket("s3://bytes?endpoint=http://10.0.0.7:3900&public_endpoint=https://s.example.com");
        assert_eq!(two.public_endpoint.as_deref(), Some("https://s.example.com"));
        assert!(!bucket("s3://bytes?endpoint=https://s.example.com&path_style=false").path_style);
        assert_eq!((plain.speech, plain.anonymous), (Speech::S3, false));
        let google = bucket("gs://bytes/a?credentials=/etc/key.json&signer=s@p.iam.gserviceaccount.com");
        assert_eq!((google.speech, google.prefix.as_str(), google.anonymous), (Speech::Google, "a/", false));
        assert_eq!(google.signer.as_deref(), Some("s@p.iam.gserviceaccount.com"));
        assert!(bucket("gs://bytes?endpoint=http://127.0.0.1:4443&credentials=none").anonymous);
    }

    #[test]
    fn a_container_is_named_by_a_url() {
        let container = |text: &str| match parse(text).expect(text) {
            Storage::Container(container) => container,
            other => panic!("{text} is {other:?}"),
        };
        let plain = container("az://account1/bytes");
        assert_eq!((plain.account.as_str(), plain.name.as_str(), plain.prefix.as_str()), ("account1", "bytes", ""));
        assert_eq!((plain.endpoint, plain.public_endpoint, plain.credentials), (None, None, None));
        let all = container(
            "az://devstoreaccount1/my-bytes/a/b/?endpoint=http://127.0.0.1:10000/devstoreaccount1/\
             &public_endpoint=https://b.example.com&credentials=/etc/azure.env",
        );
        assert_eq!((all.name.as_str(), all.prefix.as_str()), ("my-bytes", "a/b/"));
        assert_eq!(all.endpoint.as_deref(), Some("http://127.0.0.1:10000/devstoreaccount1"));
        assert_eq!(all.public_endpoint.as_deref(), Some("https://b.example.com"));
        assert_eq!(all.credentials, Some(PathBuf::from("/etc/azure.env")));
    }

    #[test]
    fn what_can_not_be_a_bucket_is_refused_with_a_sentence() {
        for bad in [
            "",
            "s4://bytes",
            "s3://",
            "s3://ab",
            "s3://Bytes_And",
            "s3://key:secret@bytes",
            "s3://bytes:9000",
            "s3://bytes/a b",
            "s3://bytes?endpoint=storage.example.com",
            "s3://bytes?endpoint=https://storage.example.com/path",
            "s3://bytes?public_endpoint=s.example.com",
            "s3://bytes?region=",
            "s3://bytes?checksums=maybe",
            "s3://bytes?colour=red",
            "s3://bytes?signer=somebody",
            "gs://bytes?region=eu-1",
            "gs://bytes?checksums=false",
            "gs://bytes?credentials=none",
            "gs://bytes?credentials=none&endpoint=https://s.example.com",
            "az://account1",
            "az://Account-1/bytes",
            "az://account1/by",
            "az://account1/Bytes",
            "az://account1/-bytes",
            "az://account1/by--tes",
            "az://key@account1/bytes",
            "az://account1:9000/bytes",
            "az://account1/bytes/a b",
            "az://account1/bytes?region=eu-1",
            "az://account1/bytes?endpoint=b.example.com",
            "az://account1/bytes?endpoint=https://b.example.com?sig=x",
        ] {
            assert!(parse(bad).is_err_and(|sentence| sentence.len() > 20), "{bad}");
        }
    }
    #[test]
    fn a_refusal_repeats_no_secret() {
        for bad in [
            "az://account1/bytes?endpoint=https://b.example.com?sig=SECRET",
            "az://account1/bytes?sv=2021-12-02&sig=SECRET",
            "https://account1.blob.core.windows.net/bytes?sv=2021-12-02&sig=SECRET",
            "az://account1/bytes?endpoint=https://somebody:SECRET@b.example.com",
            "az://account1:SECRET@account1/bytes",
            "DefaultEndpointsProtocol=https;AccountName=account1;AccountKey=SECRET",
        ] {
            let refused = crate::config::storage_of("storage", bad).unwrap_err().to_string();
            assert!(!refused.contains("SECRET") && refused.contains("`storage`"), "{refused}");
        }
        let refused = parse("az://account1/bytes?sv=2021-12-02").unwrap_err();
        assert!(refused.contains("AZURE_STORAGE_SAS_TOKEN") && refused.contains("`credentials=`"), "{refused}");
    }
}
