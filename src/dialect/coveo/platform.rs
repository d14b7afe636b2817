//! The few calls of the vendor's platform that push clients make around their pushes: sources, fields, privileges and
//! security providers.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::model::access::Right;
use crate::model::refusal::Refusal;

use super::json::{self, Object, shorten};

/// Most fields that one call creates.
const FIELDS_PER_CALL: usize = 500;

/// What a caller says about a source, in its creation or in a change.
#[derive(Clone, PartialEq, Debug)]
pub struct SourceBody {
    /// What people are to call it.
    pub name: Option<String>,
    /// Is it to take stream loads and updates? In a creation, absent means what its type means.
    pub stream_enabled: Option<bool>,
    /// Everything else under its documented spelling where it is documented, and as sent where not.
    pub properties: Map<String, Value>,
}

impl SourceBody {
    /// Reads the body.
    ///
    /// # Errors
    /// `Malformed` for a body of another shape, `Invalid` for values that can't be.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut body = json::parse_object(body)?;
        let name = body.filled_string("name")?.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let kind = one_of(&mut body, "sourceType", &["PUSH", "CATALOG"])?;
        let visibility = one_of(&mut body, "sourceVisibility", &["PRIVATE", "SECURED", "SHARED"])?;
        let push_enabled = body.boolean("pushEnabled")?;
        let stream_enabled = body.boolean("streamEnabled")?;
        // The server's own, which a client that sends a whole source back repeats.
        body.take("id");
        let mut properties = body.rest();
        let documented = [
            ("sourceType", kind.map(Value::from)),
            ("sourceVisibility", visibility.map(Value::from)),
            ("pushEnabled", push_enabled.map(Value::from)),
        ];
        for (key, value) in documented {
            if let Some(value) = value {
                properties.insert(key.into(), value);
            }
        }
        Ok(Self { name, stream_enabled, properties })
    }

    /// The name, where there must be one.
    ///
    /// # Errors
    /// `Malformed` without one.
    pub fn required_name(&self) -> Result<&str, Refusal> {
        self.name.as_deref().ok_or_else(|| Refusal::malformed("`name` is required"))
    }

    /// Does a source created so take streams? A catalog does unless told otherwise, and nothing else does unless told.
    #[must_use]
    pub fn takes_streams(&self) -> bool {
        let catalog = self.properties.get("sourceType").and_then(Value::as_str) == Some("CATALOG");
        self.stream_enabled.unwrap_or(catalog)
    }
}

fn one_of(body: &mut Object, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, Refusal> {
    let Some(text) = body.filled_string(name)? else { return Ok(None) };
    let found = words.iter().copied().find(|word| word.eq_ignore_ascii_case(text.trim()));
    found.map(Some).ok_or_else(|| {
        let reason = format!("must be one of {}, not `{}`", words.join(", "), shorten(&text));
        Refusal::invalid(body.path(name), reason)
    })
}

/// A field of the index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The type of its values, one of [`FIELD_TYPES`].
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// The types of fields.
pub const FIELD_TYPES: [&str; 6] = ["LONG", "LONG_64", "DOUBLE", "DATE", "STRING", "VECTOR"];

/// The field that exists without being created: clients look for it before they push.
pub const BUILT_IN_FIELD: &str = "permanentid";

/// Reads the body of a call that creates fields.
///
/// # Errors
/// `Malformed` for a body of another shape, `Invalid` for names and types that can't be.
pub fn parse_fields(body: &[u8]) -> Result<Vec<Field>, Refusal> {
    let Value::Array(list) = json::parse(body)? else {
        return Err(Refusal::malformed("an array of fields is required"));
    };
    if list.len() > FIELDS_PER_CALL {
        return Err(Refusal::invalid("fields", format!("are limited to {FIELDS_PER_CALL} a call")));
    }
    list.into_iter().enumerate().map(|(at, value)| field(&format!("fields[{at}]"), value)).collect()
}

fn field(at: &str, value: Value) -> Result<Field, Refusal> {
    let mut object = Object::new(at, value)?;
    let name = object.required_string("name")?;
    let rest_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.len() > 255 || !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.bytes().all(rest_ok) {
        let reason = "must be 1 to 255 lower-case letters, digits and underscores, first a letter";
        return Err(Refusal::invalid(object.path("name"), format!("{reason}; it is `{}`", shorten(&name))));
    }
    let kind = one_of(&mut object, "type", &FIELD_TYPES)?;
    let kind = kind.ok_or_else(|| Refusal::malformed(format!("`{}` is required", object.path("type"))))?;
    Ok(Field { name, kind })
}

/// May the caller do something? Clients ask before they push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrivilegeQuestion {
    /// In which organization.
    pub organization: Option<String>,
    /// What it is to do, such as `VIEW`, `CREATE` or `EDIT`, in upper case.
    pub action: String,
    /// To what kind of thing, such as `SOURCE` or `FIELD`, in upper case.
    pub domain: String,
    /// To which one; none or `*` for all.
    pub target: Option<String>,
}

impl PrivilegeQuestion {
    /// Reads the body.
    ///
    /// # Errors
    /// `Malformed` for a body of another shape.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut body = json::parse_object(body)?;
        let organization = body.filled_string("organizationId")?;
        let requested =
            body.take("requestedPrivilege").ok_or_else(|| Refusal::malformed("`requestedPrivilege` is required"))?;
        let mut requested = Object::new("requestedPrivilege", requested)?;
        Ok(Self {
            organization,
            action: requested.required_string("type")?.to_ascii_uppercase(),
            domain: requested.required_string("targetDomain")?.to_ascii_uppercase(),
            target: requested.filled_string("targetId")?.filter(|target| target != "*"),
        })
    }

    /// The right that answers the question; none for what this server knows nothing of.
    #[must_use]
    pub fn right(&self) -> Option<Right> {
        match (self.domain.as_str(), self.action.as_str()) {
            ("FIELD" | "FIELDS", _) => Some(Right::Fields),
            ("SOURCE" | "SOURCES", "CREATE") => Some(Right::Sources),
            ("SOURCE" | "SOURCES", _) => Some(Right::Items),
            ("SECURITY_PROVIDER" | "SECURITY_IDENTITY" | "SECURITY_CACHE", _) => Some(Right::Identities),
            ("ORGANIZATION", "VIEW") => Some(Right::Upload),
            _ => None,
        }
    }
}

/// A security identity provider, as it is told and as it is answered.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityProvider {
    /// What people call it.
    pub name: Option<String>,
    /// `EXPANDED`, usually.
    #[serde(rename = "type")]
    pub kind: String,
    /// Does it need a node of its own?
    pub node_required: bool,
    /// The sources that use it: `{id, type}`.
    pub referenced_by: Vec<Value>,
    /// The providers that it leads on to, as given.
    pub cascading_security_providers: Map<String, Value>,
}

impl SecurityProvider {
    /// Reads the body.
    ///
    /// # Errors
    /// `Malformed` for a body of another shape.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut body = json::parse_object(body)?;
        let references = body.array("referencedBy")?.into_iter().enumerate();
        Ok(Self {
            name: body.filled_string("name")?,
            kind: body.filled_string("type")?.unwrap_or_else(|| "EXPANDED".into()).to_ascii_uppercase(),
            node_required: body.boolean("nodeRequired")?.unwrap_or(false),
            referenced_by: references.map(|(at, value)| reference(at, value)).collect::<Result<_, _>>()?,
            cascading_security_providers: body.dictionary("cascadingSecurityProviders")?,
        })
    }
}

fn reference(at: usize, value: Value) -> Result<Value, Refusal> {
    let mut object = Object::new(&format!("referencedBy[{at}]"), value)?;
    let id = object.required_string("id")?;
    let kind = object.filled_string("type")?.unwrap_or_else(|| "SOURCE".into()).to_ascii_uppercase();
    Ok(json!({ "id": id, "type": kind }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn s11_a_source_is_created_as_each_client_writes_it() {
        let js_push = br#"{"sourceType":"PUSH","name":" n ","sourceVisibility":"SECURED","pushEnabled":true}"#;
        let got = SourceBody::parse(js_push).expect("a source");
        assert_eq!((got.required_name(), got.takes_streams()), (Ok("n"), false));
        assert_eq!(
            got.properties,
            object(json!({"sourceType":"PUSH","sourceVisibility":"SECURED","pushEnabled":true}))
        );
        let js_catalog = br#"{"sourceType":"CATALOG","name":"n","sourceVisibility":"SECURED","streamEnabled":true}"#;
        assert!(SourceBody::parse(js_catalog).expect("a source").takes_streams());
        assert!(SourceBody::parse(br#"{"SourceType":"catalog"}"#).expect("a source").takes_streams());
        let java = br#"{"sourceType":"PUSH","name":"n","pushEnabled":true,"streamEnabled":false,"Id":"x","owner":"me","x":null}"#;
        let got = SourceBody::parse(java).expect("a source");
        assert_eq!(got.properties, object(json!({"sourceType":"PUSH","pushEnabled":true,"owner":"me"})));
    }

    #[test]
    fn s11_a_source_that_can_t_be_says_why() {
        let got = SourceBody::parse(br#"{"name":" "}"#).expect("no name is for the caller to judge");
        assert_eq!(got.required_name(), Err(Refusal::malformed("`name` is required")));
        for (body, wanted) in
            [(json!({"sourceType":"WEB"}), "sourceType"), (json!({"sourceVisibility":"x"}), "sourceVisibility")]
        {
            assert!(
                matches!(SourceBody::parse(body.to_string().as_bytes()), Err(Refusal::Invalid { name, .. }) if name == wanted)
            );
        }
        assert!(matches!(SourceBody::parse(b"[]"), Err(Refusal::Malformed { .. })));
    }

    #[test]
    fn s4_fields_have_names_of_a_form_and_known_types() {
        let got = parse_fields(br#"[{"name":"a_1","type":"string"},{"Name":"b","Type":"LONG_64","facet":true}]"#);
        let wanted = [Field { name: "a_1".into(), kind: "STRING" }, Field { name: "b".into(), kind: "LONG_64" }];
        assert_eq!(got.expect("fields"), wanted);
        assert_eq!(serde_json::to_value(&wanted[0]).expect("json"), json!({"name":"a_1","type":"STRING"}));
        assert_eq!(parse_fields(b"[]"), Ok(Vec::new()));
        for name in ["A", "1a", "a-b", "_a", "é", "x".repeat(256).as_str()] {
            let body = json!([{"name":"ok","type":"DATE"},{"name":name,"type":"DATE"}]).to_string();
            assert!(
                matches!(parse_fields(body.as_bytes()), Err(Refusal::Invalid { name, .. }) if name == "fields[1].name")
            );
        }
        assert!(
            matches!(parse_fields(br#"[{"name":"a","type":"TEXT"}]"#), Err(Refusal::Invalid { name, .. }) if name == "fields[0].type")
        );
        assert_eq!(parse_fields(br#"[{"name":"a"}]"#), Err(Refusal::malformed("`fields[0].type` is required")));
        assert!(matches!(parse_fields(b"{}"), Err(Refusal::Malformed { .. })));
        let many = json!(vec![json!({"name":"a","type":"DATE"}); 501]).to_string();
        assert!(matches!(parse_fields(many.as_bytes()), Err(Refusal::Invalid { .. })));
    }

    #[test]
    fn s11_privileges_are_rights() {
        let ask = |action: &str, domain: &str| {
            let body = json!({"organizationId":"o","requestedPrivilege":{"type":action,"targetDomain":domain,"targetId":"*","owner":"SEARCH_API"}});
            let got = PrivilegeQuestion::parse(body.to_string().as_bytes()).expect("a question");
            assert_eq!((got.organization.as_deref(), &got.target), (Some("o"), &None));
            got.right()
        };
        assert_eq!(ask("VIEW", "FIELD"), Some(Right::Fields));
        assert_eq!(ask("edit", "source"), Some(Right::Items));
        assert_eq!(ask("CREATE", "SOURCE"), Some(Right::Sources));
        assert_eq!(ask("VIEW", "ORGANIZATION"), Some(Right::Upload));
        assert_eq!(ask("EDIT", "SECURITY_PROVIDER"), Some(Right::Identities));
        assert_eq!(ask("EDIT", "PIPELINE"), None);
        assert!(matches!(PrivilegeQuestion::parse(b"{}"), Err(Refusal::Malformed { .. })));
    }

    #[test]
    fn s11_a_security_provider_is_answered_as_it_is_told() {
        let body = br#"{"Name":"My Provider","type":"EXPANDED","nodeRequired":"False",
            "referencedBy":[{"id":"s","Type":"source"}],"cascadingSecurityProviders":{"Email":{"name":"Email"}}}"#;
        let got = SecurityProvider::parse(body).expect("a provider");
        let wanted = json!({"name":"My Provider","type":"EXPANDED","nodeRequired":false,
            "referencedBy":[{"id":"s","type":"SOURCE"}],"cascadingSecurityProviders":{"Email":{"name":"Email"}}});
        assert_eq!(serde_json::to_value(got).expect("json"), wanted);
        assert!(SecurityProvider::parse(b"{}").is_ok());
        assert_eq!(
            SecurityProvider::parse(br#"{"referencedBy":[{}]}"#),
            Err(Refusal::malformed("`referencedBy[0].id` is required"))
        );
    }

    proptest! {
        #[test]
        fn random_json_never_panics(value in super::super::json::tests::any_json()) {
            let text = value.to_string();
            let body = text.as_bytes();
            let _ = (SourceBody::parse(body), parse_fields(body), SecurityProvider::parse(body));
            let _ = PrivilegeQuestion::parse(body).map(|question| question.right());
        }
    }
}
