//! Security identities as this API writes them.

use serde_json::{Map, Value, json};

use crate::model::change::{Identity, IdentityChange, IdentityKind, IdentityRelation};
use crate::model::refusal::Refusal;

use super::json::{self, Object, shorten};

/// One who is named: in permissions, as an identity, as a member or as what an identity is mapped to. The places and
/// the years differ in what they call its parts; every spelling is taken everywhere.
#[derive(Debug)]
pub(super) struct Principal {
    name: String,
    kind: IdentityKind,
    provider: Option<String>,
    additional: Map<String, Value>,
}

impl Principal {
    /// One within permissions.
    pub(super) fn permitted(at: &str, value: Value) -> Result<Self, Refusal> {
        Self::read(at, value, "identity", "name")
    }

    /// One of a provider.
    fn provided(at: &str, value: Value) -> Result<Self, Refusal> {
        Self::read(at, value, "name", "identity")
    }

    fn read(at: &str, value: Value, name: &str, other_name: &str) -> Result<Self, Refusal> {
        let mut object = Object::new(at, value)?;
        let name = match object.filled_string(other_name)? {
            Some(name) => name,
            None => object.required_string(name)?,
        };
        let (called, kind) = match object.filled_string("identityType")? {
            Some(text) => ("identityType", Some(text)),
            None => ("type", object.filled_string("type")?),
        };
        let kind = match kind {
            Some(text) => kind_of(&text).ok_or_else(|| {
                let reason = format!("must be USER, GROUP, VIRTUAL_GROUP or UNKNOWN, not `{}`", shorten(&text));
                Refusal::invalid(object.path(called), reason)
            })?,
            None => IdentityKind::Unknown,
        };
        let provider = match object.filled_string("securityProvider")? {
            Some(provider) => Some(provider),
            None => object.filled_string("provider")?,
        };
        let additional = object.dictionary("additionalInfo")?;
        Ok(Self { name, kind, provider, additional })
    }

    /// The canonical form within permissions.
    pub(super) fn into_permission(self) -> Value {
        self.into_value("identity", "identityType", "securityProvider")
    }

    /// The canonical form of a member, a mapped or a well-known identity.
    fn into_related(self) -> Value {
        self.into_value("name", "type", "provider")
    }

    fn into_value(self, name: &str, kind: &str, provider: &str) -> Value {
        let mut map = Map::new();
        map.insert(name.into(), Value::String(self.name));
        map.insert(kind.into(), json!(kind_name(self.kind)));
        if let Some(text) = self.provider {
            map.insert(provider.into(), Value::String(text));
        }
        if !self.additional.is_empty() {
            map.insert("additionalInfo".into(), Value::Object(self.additional));
        }
        Value::Object(map)
    }

    /// As an identity of the provider that the call is about; a provider of its own means nothing there.
    fn into_identity(self) -> Identity {
        Identity { name: self.name, kind: self.kind, additional: self.additional }
    }
}

/// Reads a type without regard to case and underscores.
fn kind_of(text: &str) -> Option<IdentityKind> {
    let plain = |text: &str| text.chars().filter(|c| *c != '_').collect::<String>();
    let wanted = plain(text.trim());
    IdentityKind::ALL.into_iter().find(|kind| plain(kind.name()).eq_ignore_ascii_case(&wanted))
}

const fn kind_name(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::User => "USER",
        IdentityKind::Group => "GROUP",
        IdentityKind::VirtualGroup => "VIRTUAL_GROUP",
        IdentityKind::Unknown => "UNKNOWN",
    }
}

/// Reads the body of a call that adds or updates an identity with its members.
///
/// # Errors
/// `Malformed` for a body of another shape, `Invalid` for an unknown type.
pub fn parse_members(body: &[u8]) -> Result<IdentityChange, Refusal> {
    put(json::parse(body)?, IdentityRelation::Members)
}

/// Reads the body of a call that adds or updates an identity with its mappings.
///
/// # Errors
/// `Malformed` for a body of another shape, `Invalid` for an unknown type.
pub fn parse_mappings(body: &[u8]) -> Result<IdentityChange, Refusal> {
    put(json::parse(body)?, IdentityRelation::Mappings)
}

/// Reads the body of a call that deletes an identity.
///
/// # Errors
/// `Malformed` for a body of another shape, `Invalid` for an unknown type.
pub fn parse_delete(body: &[u8]) -> Result<IdentityChange, Refusal> {
    delete(json::parse(body)?)
}

/// An identity with what it is related to.
pub(super) fn put(value: Value, relation: IdentityRelation) -> Result<IdentityChange, Refusal> {
    let mut body = Object::new("", value)?;
    let identity = body.take("identity").ok_or_else(|| Refusal::malformed("`identity` is required"))?;
    let identity = Principal::provided("identity", identity)?.into_identity();
    let related = related(&mut body, relation.name())?;
    let well_knowns = self::related(&mut body, "wellKnowns")?;
    Ok(IdentityChange::Put { relation, identity, related, well_knowns })
}

fn related(body: &mut Object, list: &str) -> Result<Vec<Value>, Refusal> {
    let entries = body.array(list)?.into_iter().enumerate();
    entries.map(|(n, value)| Principal::provided(&format!("{list}[{n}]"), value).map(Principal::into_related)).collect()
}

/// An identity to delete, either within `identity` or bare: the documentation shows both.
pub(super) fn delete(value: Value) -> Result<IdentityChange, Refusal> {
    let wrapped = value.as_object().is_some_and(|map| {
        let mut inner = map.iter().filter(|(key, _)| key.eq_ignore_ascii_case("identity"));
        inner.any(|(_, value)| value.is_object())
    });
    let identity = if wrapped {
        let inner = Object::new("", value)?.take("identity").unwrap_or_default();
        Principal::provided("identity", inner)?
    } else {
        Principal::provided("", value)?
    };
    Ok(IdentityChange::Delete { identity: identity.into_identity() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alice() -> Identity {
        Identity { name: "alice".into(), kind: IdentityKind::User, additional: Map::new() }
    }

    #[test]
    fn c37_an_identity_comes_with_members_or_mappings_in_any_case() {
        let body = br#"{"Identity":{"Name":"g","Type":"VIRTUAL_GROUP","AdditionalInfo":{"K":"v"}},
            "Members":[{"name":"alice","type":"User"}],"WellKnowns":[{"name":"all","type":"group","additionalInfo":null}],
            "Result":{"errorDetails":"","result":0}}"#;
        let IdentityChange::Put { relation, identity, related, well_knowns } = parse_members(body).expect("members")
        else {
            panic!("not a put");
        };
        assert_eq!(relation, IdentityRelation::Members);
        assert_eq!((identity.name.as_str(), identity.kind), ("g", IdentityKind::VirtualGroup));
        assert_eq!(Value::Object(identity.additional), json!({"K":"v"}));
        assert_eq!(related, [json!({"name":"alice","type":"USER"})]);
        assert_eq!(well_knowns, [json!({"name":"all","type":"GROUP"})]);

        let body = br#"{"identity":{"name":"alice","type":"USER"},"mappings":[{"name":"a@x","type":"USER","provider":"Email"}]}"#;
        let wanted = IdentityChange::Put {
            relation: IdentityRelation::Mappings,
            identity: alice(),
            related: vec![json!({"name":"a@x","type":"USER","provider":"Email"})],
            well_knowns: Vec::new(),
        };
        assert_eq!(parse_mappings(body), Ok(wanted));
    }

    #[test]
    fn c37_a_deleted_identity_is_wrapped_or_bare() {
        for body in [
            r#"{"identity":{"name":"alice","type":"USER"}}"#,
            r#"{"Identity":{"Name":"alice","Type":"user"}}"#,
            r#"{"name":"alice","type":"USER","additionalInfo":{}}"#,
            r#"{"identity":"alice","identityType":"USER"}"#,
        ] {
            assert_eq!(parse_delete(body.as_bytes()), Ok(IdentityChange::Delete { identity: alice() }), "{body}");
        }
    }

    #[test]
    fn s9_what_can_t_be_says_where() {
        for (got, said) in [
            (parse_members(b"{}"), "`identity` is required"),
            (parse_members(br#"{"identity":{}}"#), "`identity.name` is required"),
            (parse_members(br#"{"identity":"a"}"#), "`identity` must be an object, not a string"),
            (parse_members(br#"{"identity":{"name":"a"},"members":{}}"#), "`members` must be an array, not an object"),
            (
                parse_mappings(br#"{"identity":{"name":"a"},"mappings":[1]}"#),
                "`mappings[0]` must be an object, not a number",
            ),
            (parse_delete(b"{}"), "`name` is required"),
            (parse_delete(b""), "the body is empty where JSON is required"),
            (
                parse_delete(br#"{"identity":{"name":"a"},"Identity":1}"#),
                "the keys `Identity` and `identity` are the same one: case does not count",
            ),
        ] {
            assert_eq!(got, Err(Refusal::malformed(said)));
        }
        match parse_members(br#"{"identity":{"name":"a","type":"robot"}}"#) {
            Err(Refusal::Invalid { name, .. }) => assert_eq!(name, "identity.type"),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn random_json_never_panics(value in super::super::json::tests::any_json()) {
            let body = value.to_string();
            let _ = (parse_members(body.as_bytes()), parse_mappings(body.as_bytes()), parse_delete(body.as_bytes()));
        }
    }
}
