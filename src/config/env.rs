//! Environment variables that look like ours and are not: somebody meant a setting, and it has no effect.

use super::{
    Env,
    keys::{KEYS, nearest},
};

/// What all our variables begin with.
const PREFIX: &str = "PORTOLAN_";

/// One sentence for each unknown `PORTOLAN_…` variable, in the order of their names. Values are not told: one may be a
/// password.
pub fn unknown_variables(env: &Env) -> Vec<String> {
    let unknown = |name: &&String| name.starts_with(PREFIX) && KEYS.iter().all(|key| key.env() != **name);
    let told = |name: &String| {
        let fix = match nearest(&name[PREFIX.len()..]) {
            Some(key) => format!("did you mean {}?", key.env()),
            None => "the names are those of the flags in `portolan agent --help`".to_owned(),
        };
        format!("unknown environment variable {name}; {fix}")
    };
    env.keys().filter(unknown).map(told).collect()
}
