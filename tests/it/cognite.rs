//! The acceptance checks of the Cognite dialect, by subject.

mod bad;
mod catalogue;
mod life;
mod paths;
mod routes;
mod tokens;
mod uploads;

use serde_json::{Value, json};

use crate::harness::{Call, Reply, Server};

impl Reply {
    /// Itself, being an error of this API: a code, which is the status, and a message.
    #[track_caller]
    pub(crate) fn failure(&self, status: u16) -> Value {
        let text: String = self.text().chars().take(2_000).collect();
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{text}");
        let body = self.json();
        let error = body["error"].clone();
        assert_eq!(body.as_object().unwrap().len(), 1, "{text}");
        assert_eq!(error["code"], status, "{text}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
        assert!(error["missing"].is_null() || error["duplicated"].is_null(), "never both: {text}");
        for list in ["missing", "duplicated"] {
            assert!(error[list].is_null() || !error[list].as_array().expect(list).is_empty(), "{text}");
        }
        self.identified();
        error
    }

    /// Itself, being a 400 whose message names this field.
    #[track_caller]
    pub(crate) fn names(&self, field: &str) -> Value {
        let error = self.failure(400);
        assert!(error["message"].as_str().unwrap().contains(field), "`{field}` in {error}");
        error
    }

    /// Check 20: every answer has an id.
    #[track_caller]
    pub(crate) fn identified(&self) {
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()), "{self:?}");
    }

    /// The items of a list.
    #[track_caller]
    pub(crate) fn items(&self) -> Vec<Value> {
        self.identified();
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["items"].as_array().expect("items").clone()
    }
}

/// The ids of some files.
pub(crate) fn ids(files: &[Value]) -> Vec<i64> {
    files.iter().map(|file| file["id"].as_i64().expect("id")).collect()
}

impl Server {
    /// A path of the project in this API.
    pub(crate) fn project(&self, rest: &str) -> String {
        format!("/api/v1/projects/{}{rest}", self.tenant)
    }

    /// A call on files with a JSON body.
    pub(crate) fn on_files(&self, rest: &str, body: impl std::fmt::Display) -> Call<'_> {
        self.call("POST", self.project(&format!("/files{rest}"))).json(body)
    }

    /// A new file; what the server says about it.
    pub(crate) async fn declare(&self, body: Value) -> Value {
        let reply = self.on_files("", body).send().await.expect(201);
        reply.identified();
        reply.json()
    }

    /// A new file with this content; its id.
    pub(crate) async fn with_content(&self, body: Value, content: &[u8]) -> i64 {
        let file = self.declare(body).await;
        self.bare("PUT", file["uploadUrl"].as_str().expect("uploadUrl")).body(content).send().await.expect(200);
        file["id"].as_i64().expect("id")
    }

    /// The file with an id.
    pub(crate) async fn by_id(&self, id: i64) -> Value {
        self.on_files("/byids", json!({ "items": [{ "id": id }] })).send().await.items()[0].clone()
    }

    /// What a download link of a file leads to.
    pub(crate) async fn download(&self, id: i64) -> Reply {
        let links = self.on_files("/downloadlink", json!({ "items": [{ "id": id }] })).send().await.items();
        self.bare("GET", links[0]["downloadUrl"].as_str().expect("downloadUrl")).send().await
    }

    /// How many files there are.
    pub(crate) async fn how_many(&self) -> i64 {
        self.on_files("/aggregate", "{}").send().await.items()[0]["count"].as_i64().expect("count")
    }
}
