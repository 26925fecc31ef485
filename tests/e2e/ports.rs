//! Images that expose more ports than their users publish: what is published is found all the same, and opens.

use hickory_proto::rr::RecordType;

use super::bed::{A, B, SOON, addresses, eventually, everywhere, expect, targets, unique, unique_port};

/// Serves on two ports.
fn serve(first: u16, second: u16) -> String {
    format!("httpd -p {first}; exec httpd -f -p {second}")
}

#[test]
fn ports_that_are_only_exposed_take_no_address_away() {
    let network = A.network(&unique("rabbit"));
    let askers = [A.run(&unique("beside"), &[]), B.run(&unique("far"), &[])];
    let [service, moved, many] = ["five", "moved", "many"].map(unique);
    let (own, management, elsewhere, one) = (unique_port(), unique_port(), unique_port(), unique_port());
    let start = |service: &str, options: &str, served: &str| {
        let label = format!("portolan.service={service}");
        let network = ["--network", &network.name, "--label", &label];
        let options = network.into_iter().chain(options.split_whitespace()).collect::<Vec<_>>();
        A.run_command(&unique("r"), &options, &["sh", "-c", served])
    };
    let five = "--expose 79 --expose 80 --expose 443";
    let _replicas = [
        // As of an image with five EXPOSE lines, two of which are published.
        start(&service, &format!("{five} -p {own}:{own} -p {management}:{management}"), &serve(own, management)),
        start(&moved, &format!("--expose 80 -p {elsewhere}:8080"), "exec httpd -f -p 8080"),
        // More than a container may publish ports, of which the last is the published one.
        start(&many, &format!("--expose 7000-7100 -p {one}:9042"), "exec httpd -f -p 9042"),
    ];
    for (service, numbers) in
        [(service, vec![own.min(management), own.max(management)]), (moved, vec![elsewhere]), (many, vec![one])]
    {
        let name = format!("{service}.svc.internal");
        everywhere(&name, RecordType::A, &addresses([A]));
        everywhere(&name, RecordType::SRV, &targets(numbers.iter().map(|number| (A.address, *number))));
        for asker in &askers {
            expect("its host's address", &addresses([A]), || asker.ask(&name, "A"));
            let target = format!("{}:{}", A.address, numbers[0]);
            eventually(&format!("{target} opens from {}", asker.name), SOON, || asker.connect(&target));
        }
    }
}
