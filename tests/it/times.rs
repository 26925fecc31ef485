//! What scripts/times.sh makes of nextest's report of a run.

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Tests of two binaries and of the library, one of which failed, as cargo-nextest 0.9 writes them.
const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="5" failures="1" errors="0" uuid="0d5f7b6a" timestamp="2026-11-29T08:50:00.000+00:00" time="75.5">
    <testsuite name="portolan" tests="2" disabled="0" errors="0" failures="0">
        <testcase name="watch::docker::tests::a_list" classname="portolan" timestamp="2026-11-29T08:50:01.000+00:00" time="1.250">
        </testcase>
        <testcase name="watch::probe::tests::time=&quot;9" classname="portolan" timestamp="2026-11-29T08:50:01.000+00:00" time="1.250">
        </testcase>
    </testsuite>
    <testsuite name="portolan::e2e" tests="3" disabled="0" errors="0" failures="1">
        <testcase name="bare::first" classname="portolan::e2e" timestamp="2026-11-29T08:50:02.000+00:00" time="60.000">
        </testcase>
        <testcase name="bare::second" classname="portolan::e2e" timestamp="2026-11-29T08:51:02.000+00:00" time="12.400">
            <failure message="it failed" type="test failure">time="500"</failure>
        </testcase>
        <testcase name="smoke::third" classname="portolan::e2e" timestamp="2026-11-29T08:51:14.000+00:00" time="0.100"/>
    </testsuite>
</testsuites>
"#;

fn times(reports: &[&Path]) -> (Option<i32>, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/times.sh");
    let output = Command::new(script).args(reports).stdin(Stdio::null()).output().expect("bash and awk are there");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn times_are_told_by_binary_and_module_the_longest_first() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let paths = ["one.xml", "two.xml"].map(|name| directory.path().join(name));
    for path in &paths {
        std::fs::write(path, REPORT).expect("our own directory");
    }
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let (code, one) = times(&[&paths[0]]);
    assert_eq!(code, Some(0));
    let expected = [["72", "2", "bare"], ["2", "2", "watch"], ["0", "1", "smoke"]];
    let binaries = ["e2e", "src", "e2e"];
    for ((row, expected), binary) in rows(&one).iter().zip(expected).zip(binaries) {
        let [seconds, "s", tests, "tests", of, part] = row.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
            panic!("{one}")
        };
        assert_eq!(([seconds, tests, part], of), (expected, binary), "{one}");
    }
    // Two reports are one table.
    let (code, both) = times(&[&paths[0], &paths[1]]);
    assert_eq!((code, rows(&both).len(), rows(&both)[0][0].as_str()), (Some(0), 3, "145"), "{both}");
    // Without one it says how it is used.
    assert_eq!(times(&[]).0, Some(2));
}
