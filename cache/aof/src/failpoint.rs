//! Failpoints: places in the code, known by name, where a test has this process killed or held up.
//!
//! A kill at a random moment rarely hits the few instructions between two durable steps. Such places
//! call [`reach`], which does nothing unless they were [armed](arm) when the program began. Nothing is
//! unwound and no file is closed: it is the `kill -9` that a power cut or the kernel could send there.
//!
//! A plan is a list `name=kill`, `name=kill:3` (the third time) or `name=hold:500` (each time for so
//! many milliseconds), separated by `;`.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The environment variable that has the program's plan.
pub const VARIABLE: &str = "EGRET_FAILPOINTS";

/// The longest that a place may be held up.
const LONGEST_HOLD_MS: u64 = 600_000;

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Plan> = OnceLock::new();

/// What happens where.
#[derive(Debug)]
pub struct Plan(Vec<Armed>);

#[derive(Debug)]
struct Armed {
    point: String,
    action: Action,
    /// How often it was reached.
    reached: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// At this time.
    Kill(u64),
    Hold(Duration),
}

/// Has the plan carried out from now on; the first one, if there are several.
pub fn arm(plan: Plan) {
    if !plan.0.is_empty() && PLAN.set(plan).is_ok() {
        IS_ARMED.store(true, Ordering::Release);
    }
}

/// The code has come to a place. What it did before is done, what follows is not begun.
#[inline]
pub fn reach(point: &str) {
    if IS_ARMED.load(Ordering::Acquire) {
        act(point);
    }
}

#[cold]
fn act(point: &str) {
    let armed = PLAN.get().map(|plan| plan.0.as_slice()).unwrap_or_default();
    for armed in armed.iter().filter(|armed| armed.point == point) {
        let times = armed.reached.fetch_add(1, Ordering::Relaxed) + 1;
        match armed.action {
            Action::Kill(at) if times == at => kill(point),
            Action::Kill(_) => {}
            Action::Hold(time) => std::thread::sleep(time),
        }
    }
}

#[expect(clippy::print_stderr, reason = "no log is written any more")]
fn kill(point: &str) {
    eprintln!("killed at [{point}]");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        parts.map(Armed::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Armed {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("failpoint [{text}] is none of name=kill, name=kill:n, name=hold:ms");
        let (point, action) = text.split_once('=').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u64>().ok();
        let action = match action.split_once(':').unwrap_or((action, "")) {
            ("kill", "") => Some(Action::Kill(1)),
            ("kill", at) => number(at).filter(|at| *at > 0).map(Action::Kill),
            ("hold", time) => number(time)
                .filter(|time| *time <= LONGEST_HOLD_MS)
                .map(|time| Action::Hold(Duration::from_millis(time))),
            _ => None,
        };
        let action = action.filter(|_| !point.is_empty()).ok_or_else(wrong)?;
        Ok(Self { point: point.to_owned(), action, reached: AtomicU64::new(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let read = |text: &str| {
            let plan: Plan = text.parse().unwrap();
            plan.0.into_iter().map(|armed| (armed.point, armed.action)).collect::<Vec<_>>()
        };
        let hold = Action::Hold(Duration::from_millis(20));
        assert_eq!(read(""), []);
        assert_eq!(read("a=kill"), [("a".to_owned(), Action::Kill(1))]);
        assert_eq!(
            read("a=kill:3; b=hold:20;"),
            [("a".to_owned(), Action::Kill(3)), ("b".to_owned(), hold)]
        );
    }

    #[test]
    fn what_is_no_plan_is_named() {
        for text in ["a", "a=", "=kill", "a=kill:0", "a=kill:x", "a=hold", "a=hold:601000", "a=die"]
        {
            let error = text.parse::<Plan>().unwrap_err();
            assert!(error.contains(&format!("[{text}]")), "{error}");
        }
    }
}
