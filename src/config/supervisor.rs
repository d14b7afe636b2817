//! What a supervisor of services, such as systemd, says in the environment about how it wants to hear from its service.

use std::ffi::OsString;
use std::time::Duration;

/// Who wants to know that this process runs.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Supervisor {
    /// The address of its socket for datagrams: a path, or a name after an `@`.
    pub socket: OsString,
    /// It kills a service from which it has heard nothing for so long.
    pub watchdog: Option<Duration>,
}

/// Whoever has started this process, if it wants to hear from it.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn supervisor() -> Option<Supervisor> {
    read(|name| std::env::var_os(name), std::process::id())
}

fn read(environment: impl Fn(&str) -> Option<OsString>, id: u32) -> Option<Supervisor> {
    let socket = environment("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
    let number = |name| environment(name)?.to_str()?.parse::<u64>().ok();
    // The variables are inherited: what is meant for another process is not for this one.
    let meant = environment("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(id));
    let watchdog = number("WATCHDOG_USEC").filter(|micros| meant && *micros > 0).map(Duration::from_micros);
    Some(Supervisor { socket, watchdog })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(variables: &[(&str, &str)]) -> Option<Supervisor> {
        read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(*value)), 7)
    }

    #[test]
    fn a_supervisor_is_who_names_a_socket() {
        let watchdog = |variables: &[(&str, &str)]| {
            let socket = [("NOTIFY_SOCKET", "/run/systemd/notify")];
            given(&[&socket, variables].concat()).unwrap().watchdog
        };
        assert_eq!(given(&[]), None);
        assert_eq!(given(&[("NOTIFY_SOCKET", ""), ("WATCHDOG_USEC", "1")]), None);
        assert_eq!(watchdog(&[]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_millis(1)));
        for other in ["8", "x", ""] {
            assert_eq!(watchdog(&[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", other)]), None);
        }
        for nothing in ["0", "soon", ""] {
            assert_eq!(watchdog(&[("WATCHDOG_USEC", nothing)]), None);
        }
    }
}
