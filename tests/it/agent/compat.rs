//! An agent in the place of Registrator, with its command line and its users' containers.

use serde_json::json;

use super::bed::{Home, address, engine_bed, eventually};

#[test]
fn registrators_command_line_and_metadata_give_registrators_names() {
    let bed = engine_bed("compat");
    let home = Home::new(&["--compat", "registrator", "-internal", "-tags=fleet", "-ttl", "60", "-resync", "30"]);
    let _agent = home.start();
    home.until_ready();
    assert_eq!(home.logged("note: -resync of Registrator is not needed"), 1);
    let stem = bed.name("db");
    let variables = [
        format!("SERVICE_80_NAME={stem}"),
        "SERVICE_80_ID=db.1".into(),
        "SERVICE_REGION=eu".into(),
        "SERVICE_81_IGNORE=1".into(),
    ];
    let mut options: Vec<&str> = vec!["--expose", "80", "--expose", "81"];
    variables.iter().for_each(|variable| options.extend(["-e", variable]));
    bed.sleeper("db", &options);
    home.until_address(&stem, &address(&stem));
    let of = |services: &serde_json::Value| {
        let service = services["services"].as_array()?.iter().find(|service| service["service"] == *stem)?.clone();
        Some((
            service["namespace"].clone(),
            service["instances"][0]["ports"].clone(),
            service["instances"][0]["tags"].clone(),
        ))
    };
    let (namespace, ports, tags) = eventually("its metadata is shown", || of(&home.json("/v1/services")));
    assert_eq!((namespace, tags), (json!("global"), json!(["fleet"])));
    let expected = json!([{"port": 80, "proto": "tcp", "published": [], "id": "db.1", "attributes": {"region": "eu"}}]);
    assert_eq!(ports, expected);
}
