//! Bearer tokens that issuers sign: what lets somebody in, what does not, and what an issuer is asked for. A
//! published issuer is run with the vendors' clients.

use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use landfall::http::auth::{self, RateLimiter};
use landfall::model::refusal::Refusal;
use serde_json::{Value, json};

use crate::harness::{Binary, Call, Server};
use crate::issuer::{AUDIENCE, Issuer, Key, Mode, SUBJECT, but, encode, trust, trusting};

/// A native call that a token lets in or not.
fn usage<'s>(server: &'s Server, token: &str) -> Call<'s> {
    server.native("GET", "/usage").bearer(token)
}

async fn status(server: &Server, token: &str) -> u16 {
    usage(server, token).send().await.status
}

/// How often an issuer may have been asked for a key that it does not have, since `since` by the server's clock.
fn looks(server: &Server, since: Duration) -> usize {
    1 + usize::try_from((server.clock.monotonic() - since).as_secs() / 30).unwrap()
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come to pass that {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_trusted_issuer_lets_its_subject_in() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let token = issuer.token(&server, &key);
    for _ in 0..3 {
        usage(&server, &token).send().await.expect(200);
    }
    assert_eq!((issuer.told.documents.load(Ordering::SeqCst), issuer.fetches()), (1, 1));
    // Without discovery the issuer's name may be anything.
    let named = but(&issuer.claims(&server), json!({ "iss": "our issuer" }));
    assert_eq!(status(&server, &key.token(&named)).await, 401);
    let keys = format!("{}/keys", issuer.url);
    let set =
        ["--issuer", "our issuer", "--jwks-url", &keys, "--audience", "x", "--audience", AUDIENCE, "--rights", "read"];
    let shown = server.admin(&[&["tenant", "oidc", "set", &server.tenant][..], &set[..]].concat()).await;
    assert_eq!((&shown["jwks_url"], &shown["discovery_url"]), (&json!(keys), &Value::Null), "{shown}");
    assert_eq!(status(&server, &key.token(&named)).await, 200);
    // What was changed holds at once.
    server.admin(&["tenant", "oidc", "remove", &server.tenant, "--issuer", "our issuer"]).await;
    assert_eq!(status(&server, &key.token(&named)).await, 401);
    assert_eq!(status(&server, &token).await, 200);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_uploads_and_is_the_same_with_its_next_token() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let content = b"written with a token";
    let open = |token: &str| {
        let body = json!({ "name": "t.txt", "size": content.len() });
        server.native("POST", "/uploads").bearer(token).header("Idempotency-Key", "mine").json(&body)
    };
    let made = open(&issuer.token(&server, &key)).send().await.expect(201).json();
    server.clock.advance(Duration::from_secs(600));
    let next = issuer.token(&server, &key);
    let again = open(&next).send().await;
    assert!([200, 201].contains(&again.status), "{}", again.text());
    assert_eq!(again.json()["id"], made["id"]);
    let url = made["url"].as_str().unwrap_or_else(|| panic!("{made}"));
    let mut put = server.bare("PUT", url).body(content);
    for (name, value) in made["headers"].as_object().into_iter().flatten() {
        put = put.header(name, value.as_str().unwrap());
    }
    let put = put.send().await;
    assert!((200..300).contains(&put.status), "{}", put.text());
    let commit = format!("/uploads/{}/commit", made["id"].as_str().unwrap());
    let file = server.native("POST", &commit).bearer(&next).json("{}").send().await;
    assert!((200..300).contains(&file.status), "{}", file.text());
    let files = server.native("GET", "/files").bearer(&next).send().await.expect(200).json();
    assert_eq!(files["items"][0]["name"], "t.txt", "{files}");
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_api_takes_tokens_of_the_tenant_in_its_path() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let token = issuer.token(&server, &key);
    let expired = key.token(&but(&issuer.claims(&server), json!({ "exp": 1 })));
    server.call("POST", server.org("files")).bearer(&token).send().await.expect(201);
    server.call("POST", server.org("files")).bearer(&expired).refused(401, "INVALID_TOKEN").await;
    let stores = format!("/v1/organizations/{}/knowledge/stores", server.tenant);
    server.call("GET", &stores).bearer(&token).send().await.expect(200);
    server.call("GET", &stores).bearer(&token).header("x-api-key", "dummy").send().await.expect(200);
    server.call("GET", &stores).bearer(&expired).header("x-api-key", &server.key).send().await.expect(200);
    server.call("GET", &stores).bearer(&expired).send().await.fault(401, "TOKEN_INVALID");
    // The call that could be two vendors' looks at the body only for those who are let in.
    let shared = format!("/v1/organizations/{}/files", server.tenant);
    server.call("POST", &shared).bearer(&token).send().await.expect(201);
    server
        .call("POST", &shared)
        .bearer(&token)
        .json(json!({ "gcs_path": "x" }))
        .send()
        .await
        .fault(422, "VALIDATION_ERROR");
    server.call("POST", &shared).bearer(&expired).json(json!({ "gcs_path": "x" })).refused(401, "INVALID_TOKEN").await;
    // Another tenant's path, and one that nobody has.
    let other = server.neighbour().await;
    let path = |tenant: &str| format!("/push/v1/organizations/{tenant}/files");
    server.call("POST", path(&other.tenant)).bearer(&token).refused(401, "INVALID_TOKEN").await;
    server.call("POST", path("nobody")).bearer(&token).refused(401, "INVALID_TOKEN").await;
    // A token in a key's header is no key.
    server.native("GET", "/usage").anonymous().header("X-API-Key", &token).problem(401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_hold_is_a_401_whose_reason_the_tenant_can_read() {
    let (key, stranger) = (Key::rsa("one"), Key::rsa("one"));
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let since = server.clock.monotonic();
    let claims = issuer.claims(&server);
    let now = server.clock.now().seconds();
    let with = |changes: Value| key.token(&but(&claims, changes));
    let head = |head: Value| key.token_with(&head, &claims);
    let good = key.token(&claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let unsigned = |head: Value| Key::unsigned(&head, &claims);
    let secret = |key_bytes: &[u8]| key.with_secret(key_bytes, &claims);
    let [der, pem] = key.published();
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).unwrap();
    flipped[10] ^= 1;
    let admin = encode(but(&claims, json!({ "sub": "admin" })).to_string());
    let own = json!({ "alg": "RS256", "kid": "one", "jwk": stranger.jwk() });
    let pointing = json!({ "alg": "RS256", "kid": "one", "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/" });
    // The rule, a part of the reason, the token. Without a reason nobody can be told: no tenant is known.
    for (rule, reason, token) in [
        ("token_expired", "expired at", with(json!({ "exp": now - 61 }))),
        ("token_malformed", "no `exp`", with(json!({ "exp": null }))),
        ("token_not_yet", "holds from", with(json!({ "nbf": now + 120 }))),
        ("token_not_yet", "was made at", with(json!({ "iat": now + 120 }))),
        ("token_audience", "is for `other`, and must be for one of landfall", with(json!({ "aud": "other" }))),
        ("token_audience", "is for nobody", with(json!({ "aud": null }))),
        ("token_malformed", "no `sub`", with(json!({ "sub": null }))),
        ("token_key", "no RS256 key `two`", head(json!({ "alg": "RS256", "kid": "two" }))),
        ("token_algorithm", "`none`, and RS256 is taken", unsigned(json!({ "alg": "none" }))),
        ("token_algorithm", "`NONE`", unsigned(json!({ "alg": "NONE", "kid": "one" }))),
        ("token_algorithm", "`HS256`", secret(&der)),
        ("token_algorithm", "`HS256`", secret(&pem)),
        ("token_algorithm", "`HS256`", secret(key.jwk()["n"].as_str().unwrap().as_bytes())),
        ("token_algorithm", "`RS384`", head(json!({ "alg": "RS384", "kid": "one" }))),
        ("token_signature", "does not hold", stranger.token(&claims)),
        ("token_signature", "does not hold", stranger.token_with(&own, &claims)),
        ("token_signature", "does not hold", stranger.token_with(&pointing, &claims)),
        ("token_signature", "does not hold", format!("{signed}.{}", encode(&flipped))),
        ("token_signature", "does not hold", format!("{}.{admin}.{signature}", signed.split_once('.').unwrap().0)),
        ("token_signature", "does not hold", format!("{signed}.")),
        ("", "", with(json!({ "iss": "http://127.0.0.1:1" }))),
        ("", "", with(json!({ "iss": format!("{}/", issuer.url) }))),
        ("", "", with(json!({ "iss": null }))),
        ("", "", head(json!({ "alg": "RS256", "kid": "one", "crit": ["exp"] }))),
        ("", "", format!("{signed}.{signature}=")),
        ("", "", format!("{signed}.{}", "A".repeat(16 * 1024))),
        ("", "", "garbage".to_owned()),
        ("", "", "..".to_owned()),
        ("", "", "a.b.c".to_owned()),
        ("", "", format!("{good}.{signature}")),
    ] {
        let reply = usage(&server, &token).problem(401).await;
        assert_eq!(reply.json()["type"], "/problems/bad-credential");
        let record = server.native("GET", &format!("/refusals/{}", reply.header("request-id").unwrap())).send().await;
        if rule.is_empty() {
            record.problem_with(404);
            continue;
        }
        let record = record.expect(200).json();
        let detail = record["detail"].as_str().unwrap();
        assert_eq!(record["rule"], rule, "{record}");
        assert!(detail.contains(reason), "{record}");
        for part in token.split('.').filter(|part| part.len() > 4) {
            assert!(!record.to_string().contains(part), "{record}");
        }
        assert_eq!(record["status"], 401, "{record}");
    }
    // What a head says of keys is not looked at, not even whether it makes sense.
    let odd = json!({ "alg": "RS256", "kid": "one", "jwk": 1, "jku": [], "x5u": {}, "x5c": "x", "typ": 7 });
    assert_eq!(status(&server, &head(odd)).await, 200);
    // Wrong schemes present nothing.
    for value in [format!("Basic {good}"), format!("JWT {good}"), good.clone(), "Bearer".into()] {
        server.native("GET", "/usage").anonymous().header("Authorization", &value).problem(401).await;
    }
    assert_eq!(status(&server, &good).await, 200);
    assert!(issuer.fetches() <= 1 + looks(&server, since), "{} fetches", issuer.fetches());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate() {
    let (old, new) = (Key::rsa("old"), Key::rsa("new"));
    let issuer = Issuer::start(&[&old]).await;
    let server = trusting(&issuer, &[]).await;
    let (first, second) = (issuer.token(&server, &old), issuer.token(&server, &new));
    assert_eq!(status(&server, &first).await, 200);
    issuer.has(&[&old, &new]);
    assert_eq!(status(&server, &second).await, 200, "a key that is new is looked for");
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(status(&server, &first).await, 200);
    issuer.has(&[&new]);
    assert_eq!(status(&server, &first).await, 200, "its keys are fresh for an hour");
    server.clock.advance(Duration::from_secs(3600));
    let (first, second) = (issuer.token(&server, &old), issuer.token(&server, &new));
    assert_eq!(status(&server, &first).await, 401);
    assert_eq!(status(&server, &second).await, 200);
    assert!((3..=4).contains(&issuer.fetches()), "{}", issuer.fetches());
    // An issuer may ask for less.
    issuer.is(Mode::Headers(vec![("cache-control", "public, max-age=120".into())]));
    server.clock.advance(Duration::from_secs(3600));
    let second = issuer.token(&server, &new);
    assert_eq!(status(&server, &second).await, 200);
    issuer.has(&[&old]);
    server.clock.advance(Duration::from_secs(120));
    assert_eq!(status(&server, &second).await, 401);
    assert_eq!(status(&server, &issuer.token(&server, &old)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_rarely_asked_for_keys_that_it_does_not_have() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let since = server.clock.monotonic();
    let claims = issuer.claims(&server);
    let unknown = |n: usize| key.token_with(&json!({ "alg": "RS256", "kid": format!("k{n}") }), &claims);
    // Many at once, before it was ever asked: one call for all.
    let tokens: Vec<String> = (0..50).map(unknown).collect();
    let replies = futures_util::future::join_all(tokens.iter().map(|token| status(&server, token))).await;
    assert!(replies.iter().all(|status| *status == 401), "{replies:?}");
    for token in &tokens {
        assert_eq!(status(&server, token).await, 401);
    }
    assert!(issuer.fetches() <= 1 + looks(&server, since), "{} fetches", issuer.fetches());
    let before = issuer.fetches();
    server.clock.advance(Duration::from_secs(31));
    let again = server.clock.monotonic();
    for token in &tokens {
        assert_eq!(status(&server, token).await, 401);
    }
    let more = issuer.fetches() - before;
    assert!(more >= 1 && more <= looks(&server, again), "{more} fetches");
    assert_eq!(status(&server, &key.token(&claims)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_issuer_is_down_its_last_keys_hold_for_a_day_and_without_any_nobody_can_judge() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let days = but(&issuer.claims(&server), json!({ "exp": server.clock.now().seconds() + 5 * 24 * 3600 }));
    let token = key.token(&days);
    issuer.is(Mode::Status(500));
    let reply = usage(&server, &token).problem(503).await;
    assert_eq!(
        (reply.json()["type"].as_str(), reply.header("retry-after")),
        (Some("/problems/issuer-silent"), Some("5"))
    );
    let record = server.get(&format!("/refusals/{}", reply.header("request-id").unwrap())).await;
    assert_eq!((&record["rule"], &record["status"]), (&json!("issuer_silent"), &json!(503)), "{record}");
    assert!(record["detail"].as_str().unwrap().contains("status 500"), "{record}");
    let reply = server.call("POST", server.org("files")).bearer(&token).refused(503, "SERVICE_UNAVAILABLE").await;
    assert_eq!(reply.header("retry-after"), Some("5"));
    let stores = format!("/v1/organizations/{}/knowledge/stores", server.tenant);
    server.call("GET", &stores).bearer(&token).send().await.fault(503, "SERVICE_UNAVAILABLE");
    // Who has a key as well does not depend on it.
    server.call("GET", &stores).bearer(&token).header("x-api-key", &server.key).send().await.expect(200);
    // A token that breaks a rule of its own needs no issuer to be refused.
    assert_eq!(status(&server, &key.token_with(&json!({ "alg": "HS256" }), &days)).await, 401);
    assert!(issuer.fetches() <= 3, "{} fetches", issuer.fetches());
    issuer.is(Mode::Well);
    server.clock.advance(Duration::from_secs(5));
    assert_eq!(status(&server, &token).await, 200);
    // With keys.
    let other = key.token_with(&json!({ "alg": "RS256", "kid": "two" }), &days);
    for mode in [Mode::Status(500), Mode::Text("<html>".into()), Mode::Text(String::new()), Mode::Status(302)] {
        issuer.is(mode);
        server.clock.advance(Duration::from_secs(2 * 3600));
        assert_eq!(status(&server, &token).await, 200);
        assert_eq!(status(&server, &other).await, 503, "it may have made that key since");
    }
    server.clock.advance(Duration::from_secs(15 * 3600));
    assert_eq!(status(&server, &token).await, 200);
    server.clock.advance(Duration::from_secs(3600));
    assert_eq!(status(&server, &token).await, 503, "a day is over");
    issuer.is(Mode::Well);
    server.clock.advance(Duration::from_secs(30));
    assert_eq!(status(&server, &token).await, 200);
    assert_eq!(status(&server, &other).await, 401);
    // One that nothing listens for.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = Issuer { url: format!("http://{gone}"), ..issuer.clone() };
    trust(&server, &server.tenant, &gone, &[]).await;
    assert_eq!(status(&server, &gone.token(&server, &key)).await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_issuer_makes_nobody_wait_but_its_own() {
    let key = Key::rsa("one");
    let (slow, quick) = (Issuer::start(&[&key]).await, Issuer::start(&[&key]).await);
    let server = trusting(&quick, &[]).await;
    let other = server.neighbour().await;
    trust(&server, &other.tenant, &slow, &[]).await;
    assert_eq!(status(&server, &quick.token(&server, &key)).await, 200);
    slow.is(Mode::Silent);
    // A machine that stands still for as long as an issuer may take shows nothing, so it is tried again.
    for _ in 0..10 {
        let before = slow.fetches();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let (http, url) = (server.http.clone(), server.url("/landfall/v1/usage"));
                let token = slow.token(&server, &key);
                tokio::spawn(async move { http.get(url).bearer_auth(token).send().await.unwrap().status().as_u16() })
            })
            .collect();
        until("the slow issuer is asked", || slow.fetches() > before).await;
        assert_eq!(status(&server, &quick.token(&server, &key)).await, 200);
        server.native("GET", "/usage").bearer(&other.key).send().await.expect(200);
        let alone = waiting.iter().all(|task| !task.is_finished());
        for task in waiting {
            assert_eq!(task.await.unwrap(), 503);
        }
        assert_eq!(slow.fetches(), before + 1, "one call for all who wait");
        if alone {
            return;
        }
        server.clock.advance(Duration::from_secs(30));
    }
    panic!("the others waited as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn algorithms_are_those_that_were_named() {
    let names = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    let keys: Vec<Key> = names.iter().map(|name| Key::new(Some(*name), name)).collect();
    // One that nobody can name.
    let unknown = Key::new(Some("ES512"), "ES512");
    let issuer = Issuer::start(&[&unknown].into_iter().chain(&keys).collect::<Vec<_>>()).await;
    let server = trusting(&issuer, &[]).await;
    for (name, key) in names.iter().zip(&keys) {
        let expected = if *name == "RS256" { 200 } else { 401 };
        assert_eq!(status(&server, &issuer.token(&server, key)).await, expected, "{name}");
    }
    trust(&server, &server.tenant, &issuer, &["--algorithms", "ES256, EdDSA"]).await;
    for (name, key) in names.iter().zip(&keys) {
        let expected = if ["ES256", "EdDSA"].contains(name) { 200 } else { 401 };
        assert_eq!(status(&server, &issuer.token(&server, key)).await, expected, "{name}");
    }
    trust(&server, &server.tenant, &issuer, &["--algorithms", &names.join(",")]).await;
    for (name, key) in names.iter().zip(&keys) {
        assert_eq!(status(&server, &issuer.token(&server, key)).await, 200, "{name}");
        // A key is for its algorithm alone.
        let head = json!({ "alg": if *name == "PS256" { "RS256" } else { "PS256" }, "kid": name });
        assert_eq!(status(&server, &key.token_with(&head, &issuer.claims(&server))).await, 401, "{name}");
    }
    let reply = usage(&server, &issuer.token(&server, &unknown)).problem(401).await;
    let record = server.get(&format!("/refusals/{}", reply.header("request-id").unwrap())).await;
    assert_eq!(record["rule"], "token_algorithm", "{record}");
    assert!(record["detail"].as_str().unwrap().contains("`ES512`"), "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_can_not_be_meant_are_passed_over() {
    let (key, nameless) = (Key::rsa("one"), Key::new(None, "RS256"));
    let issuer = Issuer::start(&[]).await;
    let server = trusting(&issuer, &[]).await;
    let token = issuer.token(&server, &key);
    let fresh = |keys: Vec<Value>| {
        issuer.has_values(keys);
        server.clock.advance(Duration::from_secs(3600));
    };
    let with = |name: &str, value: Value| {
        let mut jwk = key.jwk();
        match value {
            Value::Null => drop(jwk.as_object_mut().unwrap().remove(name)),
            value => jwk[name] = value,
        }
        jwk
    };
    for (jwk, expected) in [
        (key.jwk(), 200),
        (with("use", json!("enc")), 401),
        (with("use", Value::Null), 200),
        (with("key_ops", json!(["verify"])), 200),
        (with("key_ops", json!(["encrypt"])), 401),
        (with("alg", json!("RS512")), 401),
        (with("alg", json!("RSA-OAEP")), 401),
        (with("alg", json!("ES256")), 401),
        (with("alg", Value::Null), 200),
        (with("kid", json!("two")), 401),
        (with("kid", Value::Null), 401),
        (with("kty", json!("oct")), 401),
        (with("n", json!("AQAB")), 401),
        (with("n", json!("=")), 401),
        (with("e", json!("")), 401),
        (with("e", json!("AQ")), 401),
        (with("x5c", json!(["x"])), 200),
    ] {
        // Beside what is not understood at all.
        fresh(vec![json!(1), json!({}), json!({ "kty": "new" }), jwk.clone(), json!({ "kty": "EC", "crv": "P-256" })]);
        let token = issuer.token(&server, &key);
        assert_eq!(status(&server, &token).await, expected, "{jwk}");
    }
    // A token that names no key: the only one, but not one of several.
    fresh(vec![key.jwk(), Key::new(Some("e"), "ES256").jwk()]);
    let head = json!({ "alg": "RS256" });
    assert_eq!(status(&server, &key.token_with(&head, &issuer.claims(&server))).await, 200);
    fresh(vec![key.jwk(), nameless.jwk()]);
    assert_eq!(status(&server, &key.token_with(&head, &issuer.claims(&server))).await, 401);
    assert_eq!(status(&server, &issuer.token(&server, &key)).await, 200);
    // Too many keys, too long an answer.
    let crowd = |n: usize| -> Vec<Value> { (0..n).map(|n| with("kid", json!(format!("k{n}")))).collect() };
    fresh([crowd(99), vec![key.jwk()]].concat());
    assert_eq!(status(&server, &issuer.token(&server, &key)).await, 200);
    fresh([crowd(100), vec![key.jwk()]].concat());
    assert_eq!(status(&server, &issuer.token(&server, &key)).await, 401);
    fresh(vec![key.jwk()]);
    assert_eq!(status(&server, &issuer.token(&server, &key)).await, 200);
    let long = json!({ "keys": [key.jwk()], "more": "x".repeat(1 << 20) }).to_string();
    issuer.is(Mode::Text(long));
    server.clock.advance(Duration::from_secs(25 * 3600));
    let reply = usage(&server, &issuer.token(&server, &key)).problem(503).await;
    let record = server.get(&format!("/refusals/{}", reply.header("request-id").unwrap())).await;
    assert!(record["detail"].as_str().unwrap().contains("more than 1048576 bytes"), "{record}");
    assert_eq!(status(&server, &token).await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_its_issuers_own() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let token = issuer.token(&server, &key);
    for (document, reason) in [
        (json!({ "issuer": "https://other", "jwks_uri": format!("{}/keys", issuer.url) }), "another issuer"),
        (json!({ "issuer": issuer.url }), "no discovery document"),
        (json!({ "issuer": issuer.url, "jwks_uri": "http://keys.example/" }), "must be https"),
        (json!({ "issuer": issuer.url, "jwks_uri": "file:///etc/passwd" }), "must be https"),
    ] {
        *issuer.told.document.lock().unwrap() = document;
        let reply = usage(&server, &token).problem(503).await;
        let record = server.get(&format!("/refusals/{}", reply.header("request-id").unwrap())).await;
        assert!(record["detail"].as_str().unwrap().contains(reason), "{record}");
        server.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(issuer.fetches(), 0);
    // A redirect leads nowhere, be it to the keys.
    *issuer.told.document.lock().unwrap() =
        json!({ "issuer": issuer.url, "jwks_uri": format!("{}/moved", issuer.url) });
    assert_eq!(status(&server, &token).await, 503);
    assert_eq!(issuer.fetches(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_come_from_a_claim() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = Server::start().await;
    let map = ["--map", "writer=upload,read", "--map", "a=b=keys", "--rights", "read"];
    trust(&server, &server.tenant, &issuer, &[&["--claim", "roles"][..], &map[..]].concat()).await;
    let claims = issuer.claims(&server);
    let with = |roles: Value| key.token(&but(&claims, json!({ "roles": roles })));
    let open = |token: &str| server.native("POST", "/uploads").bearer(token).json(json!({ "name": "a", "size": 1 }));
    open(&with(json!(["other", "writer"]))).send().await.expect(201);
    open(&with(json!("x writer"))).send().await.expect(201);
    let refused = open(&with(json!(["reader"]))).problem(403).await.json();
    assert_eq!(
        (&refused["type"], &refused["right"]),
        (&json!("/problems/missing-right"), &json!("upload")),
        "{refused}"
    );
    server.call("POST", server.org("files")).bearer(&with(json!([]))).refused(403, "ACCESS_DENIED").await;
    usage(&server, &with(Value::Null)).send().await.expect(200);
    // Who may make keys makes none that outlive the token.
    let keys = server.native("POST", "/keys").bearer(&with(json!(["a=b"])));
    let made = keys.json(json!({ "name": "k", "rights": ["keys"] })).send().await.expect(201).json();
    let end = landfall::clock::Timestamp(claims["exp"].as_i64().unwrap() * 1000).rfc3339();
    assert_eq!(made["expires_at"], end, "{made}");
    // Without rights for all, a token without a role may do nothing.
    trust(&server, &server.tenant, &issuer, &["--claim", "/realm_access/roles", "--map", "admin=all"]).await;
    usage(&server, &with(json!(["admin"]))).problem(403).await;
    let nested = key.token(&but(&claims, json!({ "realm_access": { "roles": ["admin"] } })));
    usage(&server, &nested).send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tenant_in_the_path_the_audience_tells_it() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    let other = server.neighbour().await;
    let token = issuer.token(&server, &key);
    let theirs = key.token(&but(&issuer.claims(&server), json!({ "aud": "neighbour" })));
    let both = key.token(&but(&issuer.claims(&server), json!({ "aud": [AUDIENCE, "neighbour"] })));
    let set = ["tenant", "oidc", "set", &other.tenant, "--issuer", &issuer.url, "--rights", "all", "--audience"];
    server.admin(&[&set[..], &["neighbour"][..]].concat()).await;
    let sources = |token: &str| server.native("GET", "/sources").bearer(token);
    let names = |body: &Value| body["items"].as_array().unwrap().iter().map(|s| s["id"].clone()).collect::<Vec<_>>();
    assert!(names(&sources(&token).send().await.expect(200).json()).contains(&json!(server.source)));
    assert_eq!(names(&sources(&theirs).send().await.expect(200).json()), [json!(other.source)]);
    sources(&both).problem(401).await;
    let path = |tenant: &str| format!("/push/v1/organizations/{tenant}/files");
    for (token, tenant, expected) in [
        (&token, &server.tenant, 201),
        (&token, &other.tenant, 401),
        (&theirs, &server.tenant, 401),
        (&theirs, &other.tenant, 201),
        (&both, &server.tenant, 201),
        (&both, &other.tenant, 201),
    ] {
        assert_eq!(server.call("POST", path(tenant)).bearer(token).send().await.status, expected);
    }
    // The same audience in both: the path must say it.
    server.admin(&[&set[..], &[AUDIENCE][..]].concat()).await;
    sources(&token).problem(401).await;
    assert_eq!(server.call("POST", path(&other.tenant)).bearer(&token).send().await.status, 201);
    assert_eq!(server.call("POST", path(&server.tenant)).bearer(&token).send().await.status, 201);

    // Whoever asks where it may go learns both.
    let limiter = RateLimiter::new(&server.config, &server.clock);
    let inspect = async |token: &str| {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
        auth::inspect(server.engine(), &limiter, &headers).await
    };
    let found = inspect(&token).await.unwrap();
    let tenants: Vec<(&str, usize)> =
        found.tenants.iter().map(|(t, rights)| (t.as_str(), rights.names().len())).collect();
    assert_eq!(
        (found.subject.as_str(), tenants),
        (SUBJECT, vec![(server.tenant.as_str(), 7), (other.tenant.as_str(), 7)])
    );
    let found = inspect(&theirs).await.unwrap_err();
    assert_eq!(found.refusal, Refusal::BadCredential);
    let found = inspect(&server.key).await.unwrap();
    assert_eq!((found.tenants.len(), found.tenants[0].0.as_str()), (1, server.tenant.as_str()));
    assert_eq!(inspect("garbage").await.unwrap_err().refusal, Refusal::BadCredential);
    let nothing = auth::inspect(server.engine(), &limiter, &HeaderMap::new()).await;
    assert_eq!(nothing.unwrap_err().refusal, Refusal::NoCredential);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_subject_has_its_own_limit() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = Server::start_with(|config| config.rate_limit = Some(2)).await;
    trust(&server, &server.tenant, &issuer, &[]).await;
    let claims = issuer.claims(&server);
    let one = |n: i64| key.token(&but(&claims, json!({ "sub": "one", "jti": n })));
    // However slowly it is asked: a limit of two a second is exceeded by many at once.
    let tokens: Vec<String> = (0..40).map(one).collect();
    let mut refused = 0;
    for _ in 0..20 {
        let replies = futures_util::future::join_all(tokens.iter().map(|token| status(&server, token))).await;
        refused += replies.iter().filter(|status| **status == 429).count();
        assert!(replies.iter().all(|status| [200, 429].contains(status)), "{replies:?}");
        if refused > 0 {
            break;
        }
    }
    assert!(refused > 0, "tokens of one subject share its limit");
    let two = key.token(&but(&claims, json!({ "sub": "two" })));
    assert_eq!(status(&server, &two).await, 200);
    // Bad ones are nobody's.
    let bad = key.token(&but(&claims, json!({ "sub": "two", "exp": 1 })));
    for _ in 0..5 {
        assert_eq!(status(&server, &bad).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_tenants_subjects_read() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = trusting(&issuer, &[]).await;
    server.admin(&["tenant", "pause", &server.tenant]).await;
    let token = issuer.token(&server, &key);
    usage(&server, &token).send().await.expect(200);
    let open = server.native("POST", "/uploads").bearer(&token).json(json!({ "name": "a", "size": 1 }));
    assert_eq!(open.problem(403).await.json()["type"], "/problems/tenant-paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_is_shown_and_what_can_not_be_is_refused() {
    let server = Server::start().await;
    let tenant = server.tenant.as_str();
    let empty = server.admin(&["tenant", "oidc", "show", tenant]).await;
    assert_eq!(empty, json!({ "tenant": tenant, "issuers": [] }));
    let base = ["tenant", "oidc", "set", tenant, "--issuer", "https://issuer.example/v2.0", "--audience", "a"];
    let set = |more: &[&str]| [&base[..], more].concat().iter().map(|a| (*a).to_owned()).collect::<Vec<String>>();
    let more = [
        "--rights",
        "read",
        "--claim",
        "roles",
        "--map",
        "w=upload,read",
        "--algorithms",
        "RS256,ES256",
        "--leeway",
        "5",
    ];
    let arguments = set(&more);
    let mut shown = server.admin(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let all = server.admin(&["tenant", "oidc", "show", tenant]).await;
    assert_eq!(all["issuers"], json!([shown]));
    shown["created"] = Value::Null;
    let expected = json!({
        "tenant": tenant, "issuer": "https://issuer.example/v2.0", "audiences": ["a"], "jwks_url": null,
        "discovery_url": "https://issuer.example/v2.0/.well-known/openid-configuration",
        "algorithms": ["RS256", "ES256"], "leeway_seconds": 5, "rights": ["read"], "claim": "roles",
        "map": { "w": ["upload", "read"] }, "plain_http": false, "created": null,
    });
    assert_eq!(shown, expected);
    for (more, why) in [
        (&["--rights", "all", "--algorithms", "none"][..], "`none` is not an algorithm"),
        (&["--rights", "all", "--algorithms", "RS256,HS256"], "`HS256` is not an algorithm"),
        (&["--rights", "all", "--algorithms", "ES512"], "`ES512` is not an algorithm"),
        (&["--rights", "all", "--algorithms", ""], "at least one algorithm"),
        (&["--rights", "root"], "`root` is not a right"),
        (&[], "no token would get a right"),
        (&["--rights", "all", "--leeway", "601"], "at most 600"),
        (&["--claim", "roles", "--map", "admin"], "VALUE=LIST"),
        (&["--map", "admin=all"], "--claim"),
        (&["--rights", "all", "--jwks-url", "http://issuer.example/keys"], "must be https"),
        (&["--rights", "all", "--jwks-url", "keys"], "not a URL"),
    ] {
        let arguments = set(more);
        let said = server.admin_refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(said.contains(why), "{more:?}: {said}");
    }
    let said =
        server.admin_refused(&["tenant", "oidc", "set", "nobody", "--issuer", "https://i", "--audience", "a"]).await;
    assert!(said.contains("does not exist"), "{said}");
    let said = server.admin_refused(&["tenant", "oidc", "remove", tenant, "--issuer", "https://other"]).await;
    assert!(said.contains("does not trust"), "{said}");
    assert_eq!(server.admin(&["tenant", "oidc", "show", tenant]).await, all);
    let gone = server.admin(&["tenant", "oidc", "remove", tenant, "--issuer", "https://issuer.example/v2.0"]).await;
    assert_eq!(gone["removed"], true);
    assert_eq!(server.admin(&["tenant", "oidc", "show", tenant]).await, empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_reaches_the_log() {
    let key = Key::rsa("one");
    let issuer = Issuer::start(&[&key]).await;
    let server = Binary::start("").await;
    let data = server.data();
    let set =
        ["tenant", "oidc", "set", &server.tenant, "--issuer", &issuer.url, "--audience", AUDIENCE, "--rights", "all"];
    crate::harness::admin(&data, &set);
    let now = landfall::clock::Clock::system().now().seconds();
    let claims = json!({ "iss": issuer.url, "aud": AUDIENCE, "sub": "subject-in-a-token", "exp": now + 3600 });
    let tokens = [
        (key.token(&claims), 200),
        (key.token(&but(&claims, json!({ "exp": 1 }))), 401),
        (key.token(&but(&claims, json!({ "aud": "x" }))), 401),
        (key.token(&but(&claims, json!({ "iss": "x" }))), 401),
        (key.token_with(&json!({ "alg": "RS256", "kid": "two" }), &claims), 401),
        (Key::rsa("one").token(&claims), 401),
    ];
    for (token, expected) in &tokens {
        for path in ["/landfall/v1/usage".to_owned(), format!("/landfall/v1/keys/{token}"), format!("/v1/{token}/x")] {
            let reply = server.http.get(server.url(&path)).bearer_auth(token).send().await.unwrap();
            if path.ends_with("usage") {
                assert_eq!(reply.status().as_u16(), *expected);
            }
            let body = reply.text().await.unwrap();
            assert!(!body.contains(token.rsplit('.').next().unwrap()), "{body}");
        }
    }
    until("the refusals are logged", || server.log().contains("token_signature")).await;
    let log = server.log();
    assert!(log.contains("token_expired") && log.contains("an issuer's keys were fetched"), "{log}");
    for (token, _) in &tokens {
        for part in token.split('.') {
            assert!(!log.contains(part), "{part} is in the log");
        }
    }
}
