//! Who may see an item. The API has a short form (permission sets) and a long one (levels of sets), and years of
//! spellings; here all become one canonical form, so that nothing behind this module knows of them:
//! levels `{name?, permissionSets}` or sets `{name?, allowAnonymous, allowedPermissions, deniedPermissions}` of
//! principals `{identity, identityType, securityProvider?, additionalInfo?}`.

use serde_json::{Map, Value, json};

use crate::model::refusal::Refusal;

use super::identity::Principal;
use super::json::Object;

/// Makes `permissions` canonical.
pub(super) fn normalise(value: Value) -> Result<Value, Refusal> {
    let list = match value {
        Value::Array(list) => list,
        one @ Value::Object(_) => vec![one],
        _ => return Err(Refusal::malformed("`permissions` must be an array")),
    };
    let entries = list.into_iter().enumerate().map(|(at, entry)| entry_of(&format!("permissions[{at}]"), entry));
    entries.collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn entry_of(at: &str, value: Value) -> Result<Value, Refusal> {
    let mut entry = Object::new(at, value)?;
    if !entry.has("permissionSets") {
        return set(at, entry);
    }
    let name = entry.filled_string("name")?;
    let sets = entry.array("permissionSets")?.into_iter().enumerate().map(|(n, value)| {
        let at = format!("{at}.permissionSets[{n}]");
        Object::new(&at, value).and_then(|object| set(&at, object))
    });
    let sets = sets.collect::<Result<Vec<_>, _>>()?;
    let mut level = named(name);
    level.insert("permissionSets".into(), Value::Array(sets));
    Ok(Value::Object(level))
}

fn set(at: &str, mut entry: Object) -> Result<Value, Refusal> {
    let known = ["allowAnonymous", "allowedPermissions", "deniedPermissions"].into_iter().any(|name| entry.has(name));
    let name = entry.filled_string("name")?;
    // An entry that says something, but nothing known, must not quietly become a set that says nothing.
    if !known && !entry.is_empty() {
        return Err(Refusal::malformed(format!("`{at}` is neither a permission set nor a level of sets")));
    }
    let anonymous = entry.boolean("allowAnonymous")?.unwrap_or(false);
    let mut set = named(name);
    set.insert("allowAnonymous".into(), json!(anonymous));
    for list in ["allowedPermissions", "deniedPermissions"] {
        let ids = entry.array(list)?.into_iter().enumerate();
        let ids =
            ids.map(|(n, id)| Principal::permitted(&format!("{at}.{list}[{n}]"), id).map(Principal::into_permission));
        set.insert(list.into(), Value::Array(ids.collect::<Result<_, _>>()?));
    }
    Ok(Value::Object(set))
}

fn named(name: Option<String>) -> Map<String, Value> {
    name.into_iter().map(|name| (String::from("name"), Value::String(name))).collect()
}

/// How many principals canonical permissions allow and deny, in all sets together.
#[must_use]
pub fn permission_count(permissions: &Value) -> usize {
    let length = |entry: &Value, list: &str| entry.get(list).and_then(Value::as_array).map_or(0, Vec::len);
    let entries = permissions.as_array().map(Vec::as_slice).unwrap_or_default();
    let own = |entry: &Value| length(entry, "allowedPermissions") + length(entry, "deniedPermissions");
    let nested = |entry: &Value| entry.get("permissionSets").map_or(0, permission_count);
    entries.iter().map(|entry| own(entry) + nested(entry)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn malformed(value: Value) -> String {
        match normalise(value) {
            Err(Refusal::Malformed { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn s7_4_every_spelling_becomes_one_form() {
        let alice = json!({"identity":"alice","identityType":"USER"});
        let set =
            |allowed: Value| json!([{"allowAnonymous":false,"allowedPermissions":allowed,"deniedPermissions":[]}]);
        for (sent, wanted) in [
            (json!([]), json!([])),
            (json!([{}]), set(json!([]))),
            (json!({"allowAnonymous":false}), set(json!([]))),
            (json!([{"allowedPermissions":[{"identity":"alice","identityType":"User"}]}]), set(json!([alice]))),
            (json!([{"AllowedPermissions":[{"Type":"user","Name":"alice"}]}]), set(json!([alice]))),
            (
                json!([{"allowedPermissions":[{"identity":"alice","identityType":"USER","securityProvider":"","AdditionalInfo":{}}]}]),
                set(json!([alice])),
            ),
            (
                json!([{"AllowedPermissions":[{"Identity":"g","IdentityType":"VIRTUAL_GROUP","SecurityProvider":"My P","AdditionalInfo":{"K":"v"}}]}]),
                set(
                    json!([{"identity":"g","identityType":"VIRTUAL_GROUP","securityProvider":"My P","additionalInfo":{"K":"v"}}]),
                ),
            ),
            (
                json!([{"allowedPermissions":[{"identity":"g","identityType":"VirtualGroup"}]}]),
                set(json!([{"identity":"g","identityType":"VIRTUAL_GROUP"}])),
            ),
            (
                json!([{"allowedPermissions":[{"identity":"g"}]}]),
                set(json!([{"identity":"g","identityType":"UNKNOWN"}])),
            ),
            (
                json!([{"Name":"n","AllowAnonymous":"True","deniedPermissions":[{"identity":"alice","identityType":"user"}]}]),
                json!([{"name":"n","allowAnonymous":true,"allowedPermissions":[],"deniedPermissions":[alice]}]),
            ),
            (
                json!([{"Name":"l","PermissionSets":[{"Name":"s","AllowAnonymous":true,"AllowedPermissions":[],"DeniedPermissions":null}]}]),
                json!([{"name":"l","permissionSets":[{"name":"s","allowAnonymous":true,"allowedPermissions":[],"deniedPermissions":[]}]}]),
            ),
        ] {
            let once = normalise(sent.clone()).unwrap_or_else(|e| panic!("{sent}: {e}"));
            assert_eq!(once, wanted, "{sent}");
            assert_eq!(normalise(once).expect("canonical"), wanted, "again");
        }
    }

    #[test]
    fn s7_4_what_can_t_be_says_where() {
        assert_eq!(malformed(json!("all")), "`permissions` must be an array");
        assert_eq!(malformed(json!([1])), "`permissions[0]` must be an object, not a number");
        assert_eq!(
            malformed(json!([{}, {"identity":"a"}])),
            "`permissions[1]` is neither a permission set nor a level of sets"
        );
        assert_eq!(
            malformed(json!([{"allowedPermissions":[{"identityType":"USER"}]}])),
            "`permissions[0].allowedPermissions[0].identity` is required"
        );
        assert_eq!(
            malformed(json!([{"permissionSets":[{"allowedPermissions":{}}]}])),
            "`permissions[0].permissionSets[0].allowedPermissions` must be an array, not an object"
        );
        assert!(malformed(json!([{"allowAnonymous":1}])).ends_with("must be true or false, not a number"));
        match normalise(json!([{"deniedPermissions":[{"identity":"a","identityType":"robot"}]}])) {
            Err(Refusal::Invalid { name, .. }) => assert_eq!(name, "permissions[0].deniedPermissions[0].identityType"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn s4_permissions_are_counted_over_all_sets() {
        let id = json!({"identity":"a"});
        let sets = json!([{"allowedPermissions":[id, id],"deniedPermissions":[id]},{"permissionSets":[{"allowedPermissions":[id]},{"deniedPermissions":[id]}]}]);
        assert_eq!(permission_count(&normalise(sets).expect("sets")), 5);
        assert_eq!(permission_count(&Value::Null), 0);
        let many = vec![id; 6000];
        assert_eq!(permission_count(&normalise(json!([{"allowedPermissions":many}])).expect("accepted")), 6000);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_canonical(value in super::super::json::tests::any_json()) {
            if let Ok(once) = normalise(value) {
                let _ = permission_count(&once);
                prop_assert_eq!(normalise(once.clone()), Ok(once));
            }
        }
    }
}
