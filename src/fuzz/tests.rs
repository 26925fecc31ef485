use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::*;

/// Below `fuzz/` in the repository.
fn kept(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder)
}

/// The files of a folder with what they hold, in order; none if there is no such folder.
fn inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Runs everything that is kept for a target, and names all inputs that break it.
fn replay(target: &str) {
    let run = super::target(target);
    let corpus = inputs(&kept("corpus").join(target));
    assert!(!corpus.is_empty(), "no corpus for {target}: nothing was checked");
    let crashes = inputs(&kept("crashes").join(target));
    let breaks = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| run(input))).is_err();
    let broken: Vec<_> =
        corpus.iter().chain(&crashes).filter(|(_, input)| breaks(input)).map(|(path, _)| path).collect();
    assert!(broken.is_empty(), "{target} does not hold for {broken:#?}");
}

#[test]
fn the_hot_path_holds_for_all_inputs_that_are_kept() {
    replay("hot");
}

#[test]
fn the_complete_path_holds_for_all_inputs_that_are_kept() {
    replay("complete");
}

#[test]
fn the_forwarder_holds_for_all_inputs_that_are_kept() {
    replay("forward");
}

#[test]
fn the_record_decoder_holds_for_all_inputs_that_are_kept() {
    replay("record");
}

#[test]
fn every_folder_has_its_target_and_every_target_its_program() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folders = |of: &str| -> BTreeSet<String> {
        fs::read_dir(kept(of)).into_iter().flatten().map(|entry| name(&entry.unwrap().path())).collect()
    };
    assert_eq!(folders("corpus"), targets);
    assert!(folders("crashes").is_subset(&targets), "{:?}", folders("crashes"));
    let programs: BTreeSet<String> = targets.iter().map(|target| format!("{target}.rs")).collect();
    assert_eq!(folders("fuzz_targets"), programs);
    for target in targets {
        let program = fs::read_to_string(kept("fuzz_targets").join(format!("{target}.rs"))).unwrap();
        assert!(program.contains(&format!("fuzz::target(\"{target}\")")), "{target}.rs runs something else");
    }
}

fn crash(target: &str, name: &str) {
    super::target(target)(&fs::read(kept("crashes").join(target).join(name)).unwrap());
}

/// Its length says 65,527 octets. The complete path replies FORMERR, and whoever asked again got an answer from the cache.
#[test]
fn an_option_beyond_its_end_is_not_looked_for_in_the_cache() {
    crash("hot", "an_option_beyond_its_end_is_not_looked_for_in_the_cache");
}

/// It stood among the answers, and was handed on to a client that does not speak EDNS.
#[test]
fn opt_outside_of_additional_breaks_an_upstreams_message() {
    crash("forward", "opt_outside_of_additional_breaks_an_upstreams_message");
}

/// A file that the fuzzer has written is called after its digest. It is given the name of a test here, which says what was
/// wrong, and that test.
#[test]
fn every_crash_is_a_named_test() {
    for (target, _) in TARGETS {
        for (path, _) in inputs(&kept("crashes").join(target)) {
            let test = name(&path);
            let wanted = format!("fn {test}() {{\n    crash(\"{target}\", \"{test}\");");
            assert!(include_str!("tests.rs").contains(&wanted), "{} has no test: {wanted}", path.display());
        }
    }
}
