//! Bearer tokens of an issuer: whom they let in, whom they do not, and what a token's owner is told.

use serde_json::{Value, json};

use crate::harness::{Call, Reply, Server};
use crate::issuer::{Issuer, Key, SUBJECT, but, trust, trusting};

/// Every call of a project, and the right that it wants.
const CALLS: [(&str, &str, &str); 19] = [
    ("GET", "/files", "read"),
    ("GET", "/files/", "read"),
    ("GET", "/files/1", "read"),
    ("POST", "/files", "upload"),
    ("POST", "/files/", "upload"),
    ("POST", "/files/initmultipartupload?parts=1", "upload"),
    ("POST", "/files/uploadlink", "upload"),
    ("POST", "/files/multiuploadlink?parts=1", "upload"),
    ("POST", "/files/completemultipartupload", "upload"),
    ("POST", "/files/downloadlink", "read"),
    ("POST", "/files/byids", "read"),
    ("POST", "/files/list", "read"),
    ("POST", "/files/search", "read"),
    ("POST", "/files/aggregate", "read"),
    ("POST", "/files/update", "upload"),
    ("POST", "/files/delete", "upload"),
    ("POST", "/models/instances", "upload"),
    ("POST", "/models/instances/byids", "read"),
    ("POST", "/models/instances/delete", "upload"),
];
const MOUNTS: [&str; 2] = ["", "/cognite"];

impl Reply {
    /// Itself, being the one answer to whatever is wrong with a token.
    #[track_caller]
    fn unauthorized(&self, why: &str) {
        self.failure(401);
        assert_eq!(self.json(), json!({ "error": { "code": 401, "message": "Unauthorized" } }), "{why}");
    }
}

impl Server {
    /// The calls of a project under both mounts, without a token, and the right that each wants; the body is as good as
    /// another.
    fn guarded(&self, tenant: &str) -> Vec<(Call<'_>, &'static str)> {
        let calls = MOUNTS.into_iter().flat_map(|mount| CALLS.map(|call| (mount, call)));
        let calls = calls.map(|(mount, (method, path, right))| {
            let call = self.call(method, format!("{mount}/api/v1/projects/{tenant}{path}")).anonymous();
            (if method == "GET" { call } else { call.json(json!({ "name": "a" })) }, right)
        });
        calls.collect()
    }

    async fn inspected(&self, token: &str) -> Value {
        let reply = self.call("GET", "/api/v1/token/inspect").bearer(token).send().await.expect(200);
        reply.identified();
        reply.json()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_23_tokens_that_do_not_hold() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let claims = issuer.claims(&server);
    let now = server.clock.now().seconds();
    let good = key.token(&claims);
    let bearer = |token: String| Some(format!("Bearer {token}"));
    let with = |changes: Value| bearer(key.token(&but(&claims, changes)));
    let [der, pem] = key.published();
    let cases = [
        ("no Authorization", None),
        ("an empty one", Some(String::new())),
        ("a wrong scheme", Some(format!("Basic {good}"))),
        ("another wrong scheme", Some(format!("JWT {good}"))),
        ("no scheme", Some(good.clone())),
        ("no token", Some("Bearer".to_owned())),
        ("garbage", bearer("garbage".into())),
        ("garbage in three", bearer("a.b.c".into())),
        ("half of a token", bearer(good[..good.len() / 2].into())),
        ("expired", with(json!({ "exp": now - 61 }))),
        ("without an end", with(json!({ "exp": null }))),
        ("not yet", with(json!({ "nbf": now + 120 }))),
        ("a wrong audience", with(json!({ "aud": "other" }))),
        ("no audience", with(json!({ "aud": null }))),
        ("a wrong issuer", with(json!({ "iss": "http://127.0.0.1:1" }))),
        ("no issuer", with(json!({ "iss": null }))),
        ("an unknown kid", bearer(key.token_with(&json!({ "alg": "RS256", "kid": "two" }), &claims))),
        ("alg none", bearer(Key::unsigned(&json!({ "alg": "none" }), &claims))),
        ("alg none of a key", bearer(Key::unsigned(&json!({ "alg": "none", "kid": "one" }), &claims))),
        ("HS256 by the public key", bearer(key.with_secret(&der, &claims))),
        ("HS256 by its text", bearer(key.with_secret(&pem, &claims))),
        ("a stranger's signature", bearer(Key::rsa("one").token(&claims))),
    ];
    for (why, value) in &cases {
        let inspect = MOUNTS.map(|mount| server.call("GET", format!("{mount}/api/v1/token/inspect")).anonymous());
        let calls = server.guarded(&server.tenant).into_iter().map(|(call, _)| call);
        for call in calls.chain(inspect) {
            let call = match value {
                Some(value) => call.header("Authorization", value),
                None => call,
            };
            call.send().await.unauthorized(why);
        }
    }
    assert_eq!(server.how_many().await, 0);
    server.on_files("", json!({ "name": "a" })).bearer(&good).send().await.expect(201);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_24_tokens_of_other_projects_and_of_few_rights() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let other = server.neighbour().await;
    let token = issuer.token(&server, &key);
    // A project of others, the same when the issuer may vouch for it but not with this token, and none at all.
    for round in ["a stranger", "of another audience"] {
        for tenant in [other.tenant.as_str(), "nobody"] {
            for (call, _) in server.guarded(tenant) {
                call.bearer(&token).send().await.unauthorized(round);
            }
        }
        let set = ["tenant", "oidc", "set", &other.tenant, "--issuer", &issuer.url, "--audience", "theirs"];
        server.admin(&[&set[..], &["--rights", "all"]].concat()).await;
    }
    let list = format!("/api/v1/projects/{}/files/list", other.tenant);
    let theirs = key.token(&but(&issuer.claims(&server), json!({ "aud": "theirs" })));
    assert!(server.call("POST", &list).bearer(&theirs).json("{}").send().await.items().is_empty());
    assert_eq!(server.how_many().await, 0);
    // Which rights a token has, its project says.
    for rights in ["read", "upload"] {
        trust(&server, &server.tenant, &issuer, &["--rights", rights]).await;
        let before = server.how_many().await;
        for (number, (call, right)) in server.guarded(&server.tenant).into_iter().enumerate() {
            let reply = call.bearer(&token).send().await;
            if right == rights {
                assert!(![401, 403].contains(&reply.status), "call {number} with {rights}: {}", reply.text());
                continue;
            }
            let error = reply.failure(403);
            assert!(error["message"].as_str().unwrap().contains("insufficient access rights"), "{number}: {error}");
        }
        assert_eq!(server.how_many().await > before, rights == "upload");
    }
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_19_who_a_token_is() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let other = server.neighbour().await;
    let token = issuer.token(&server, &key);
    let acl = |tenant: &str, actions: Value| {
        let acl = json!({ "actions": actions, "scope": { "all": {} } });
        json!({ "filesAcl": acl, "projectScope": { "projects": [tenant] } })
    };
    let project = |tenant: &str| json!({ "projectUrlName": tenant, "groups": [] });
    let (one, two) = (server.tenant.as_str(), other.tenant.as_str());
    let told = |projects: Value, capabilities: Value| json!({ "subject": SUBJECT, "projects": projects, "capabilities": capabilities });
    let both = json!(["READ", "WRITE"]);
    assert_eq!(server.inspected(&token).await, told(json!([project(one)]), json!([acl(one, both.clone())])));
    // What each project lets it do.
    trust(&server, two, &issuer, &["--rights", "read"]).await;
    let capabilities = json!([acl(one, both.clone()), acl(two, json!(["READ"]))]);
    assert_eq!(server.inspected(&token).await, told(json!([project(one), project(two)]), capabilities));
    trust(&server, one, &issuer, &["--rights", "keys"]).await;
    let capabilities = json!([acl(two, json!(["READ"]))]);
    assert_eq!(server.inspected(&token).await, told(json!([project(one), project(two)]), capabilities));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_takes_a_file_there_and_back() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let token = issuer.token(&server, &key);
    let call = |path: &str, body: Value| server.on_files(path, body).bearer(&token).send();
    let file = call("", json!({ "name": "a", "externalId": "x" })).await.expect(201).json();
    // The published client sends its token along with the bytes, and may have a newer one by then.
    let put = server.bare("PUT", file["uploadUrl"].as_str().unwrap()).header("Authorization", "Bearer old");
    put.body(b"content".to_vec()).send().await.expect(200);
    let links = call("/downloadlink", json!({ "items": [{ "externalId": "x" }] })).await.items();
    let get = server.bare("GET", links[0]["downloadUrl"].as_str().unwrap()).header("Authorization", "Bearer old");
    assert_eq!(get.send().await.expect(200).body, b"content");
    server.leaves_everything_whole().await;
}
