//! Global names that the operator gives to some containers only.

use hickory_proto::op::ResponseCode;

use super::bed::{Home, address, engine_bed, eventually};

#[test]
fn a_name_goes_to_whom_the_operator_lets_have_it_and_the_others_are_told() {
    let bed = engine_bed("claims");
    let (service, role) = (bed.name("db"), "role=database");
    let rule = format!("{service} label={role}");
    let home = Home::new(&["--claim", &rule]);
    let _agent = home.start();
    home.until_ready();
    let label = format!("portolan.service={service}");
    bed.sleeper("thief", &["--label", &label]);
    let thief = format!("/v1/explain?container={}", bed.name("thief"));
    let problem = eventually("the refusal is explained", || {
        let reply = home.json(&thief);
        let problem = reply["containers"][0]["problems"][0].clone();
        (!problem.is_null()).then_some(problem)
    });
    assert!(problem["expected"].as_str().is_some_and(|text| text.contains(&rule)), "{problem}");
    home.until_code(&service, ResponseCode::NXDomain);
    bed.sleeper("owner", &["--label", &label, "--label", role]);
    home.until_address(&service, &address(&bed.name("owner")));
    let listed = home.json(&format!("/v1/services?service={service}"));
    assert_eq!(listed["services"][0]["instances"].as_array().map(Vec::len), Some(1), "{listed}");
    assert!(home.problems().iter().any(|problem| problem.contains(&bed.name("thief"))));
}
