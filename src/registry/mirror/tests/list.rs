//! Lists of more than one page: when each is asked for, how large, and that nothing is shown before all has come.

use super::*;

/// More keys than a first page has, and than a second.
const MANY: usize = 12_000;

fn filled(keys: usize) -> Bench {
    let mut bench = Bench::new();
    for number in 0..keys {
        bench.put(&format!("{number:012x}"));
    }
    bench
}

/// The list's next page, if one is asked for.
fn page(effects: &[Effect]) -> Option<Request> {
    effects.iter().find_map(|effect| match effect {
        Effect::Call(request) => Some(request.clone()),
        _ => None,
    })
}

fn limit(request: &Request) -> i64 {
    let Request::Range { limit, .. } = request else { panic!("{request:?}") };
    *limit
}

impl Bench {
    fn once(&mut self, input: Input) -> Vec<Effect> {
        self.mirror.handle(self.now, input, &mut self.rng)
    }

    fn reply(&mut self, request: &Request) -> Vec<Effect> {
        let reply = self.store.call(self.now, request);
        self.once(Input::Replied(reply))
    }

    /// Ticks until all that has come is decoded; how often, and the page that was asked for meanwhile.
    fn read(&mut self) -> (usize, Option<Request>) {
        let (mut ticks, mut asked) = (0, None);
        while self.mirror.is_reading() {
            assert!(self.mirror.wake_at() <= Some(self.now), "there is something to do now");
            asked = page(&self.once(Input::Tick)).or(asked);
            ticks += 1;
        }
        (ticks, asked)
    }
}

#[test]
fn a_list_of_many_pages_is_swapped_in_whole() {
    let mut bench = filled(MANY);
    let mut next = page(&bench.once(Input::Tick));
    let mut pages = 0;
    while let Some(request) = next {
        assert_eq!(bench.known().len(), 0, "nothing is shown before all is known");
        // What happens meanwhile belongs to the watch, not to the list.
        bench.put(&format!("{:012x}", MANY + pages));
        let asked = page(&bench.reply(&request));
        assert!(bench.mirror.is_reading(), "a page is not decoded in one go");
        next = asked.or(bench.read().1);
        pages += 1;
    }
    assert!(pages > 2, "{pages} pages");
    assert_eq!(bench.known().len(), MANY + 1, "the first page set the revision");
    assert!(matches!(bench.mirror.watching, Watching::Asked { .. }));
}

#[test]
fn a_small_list_is_complete_with_its_reply() {
    let mut bench = filled(100);
    let request = page(&bench.once(Input::Tick)).unwrap();
    let effects = bench.reply(&request);
    assert_eq!((bench.known().len(), bench.mirror.is_reading()), (100, false));
    assert_eq!(effects, [Effect::Watch(bench.mirror.view().revision + 1)]);
}

#[test]
fn the_next_page_is_on_its_way_while_the_last_is_decoded_and_never_more() {
    let mut bench = filled(MANY);
    let first = page(&bench.once(Input::Tick)).unwrap();
    let second = page(&bench.reply(&first)).expect("asked for at once");
    // It comes before anything of the first has been decoded but one piece: two wait, and no third is asked for.
    assert_eq!(page(&bench.reply(&second)), None);
    let mut ticks = 0;
    let third = loop {
        ticks += 1;
        if let Some(third) = page(&bench.once(Input::Tick)) {
            break third;
        }
    };
    assert!(bench.mirror.is_reading() && ticks >= 2, "asked for after {ticks} pieces of the first page");
    let (Request::Range { start, .. }, Request::Range { start: before, .. }) = (&third, &second) else { panic!() };
    assert!(start > before);
}

#[test]
fn what_else_there_is_to_do_has_its_turn_between_two_pieces() {
    let mut bench = filled(1_000);
    let request = page(&bench.once(Input::Tick)).unwrap();
    bench.reply(&request);
    let before = bench.mirror.reached;
    assert!(bench.mirror.is_reading());
    bench.once(Input::Wrote(before + 5_000));
    assert_eq!(bench.mirror.reached, before + 5_000);
    assert!(bench.read().0 >= 2, "and the list goes on");
    assert_eq!(bench.known().len(), 1_000);
}

/// Octets of each value → keys of the second page.
#[test]
fn pages_are_cut_by_what_they_weigh() {
    for (octets, expected) in [(10, 10_000..=10_000), (960, 4_000..=4_300), (60_000, 100..=100)] {
        let mut bench = Bench::new();
        for number in 0..1_001 {
            bench.put_value(format!("/portolan/v1/hosts/other/x/{number:06}").into_bytes(), vec![b'x'; octets]);
        }
        let first = page(&bench.once(Input::Tick)).unwrap();
        assert_eq!(limit(&first), 1_000);
        let asked = page(&bench.reply(&first));
        let second = limit(&asked.or(bench.read().1).unwrap());
        assert!(expected.contains(&second), "{second} keys of {octets} octets");
    }
}

#[test]
fn a_page_that_does_not_come_is_asked_for_smaller_and_the_list_begins_anew() {
    let mut bench = filled(MANY);
    let mut request = page(&bench.once(Input::Tick)).unwrap();
    request = page(&bench.reply(&request)).unwrap();
    let too_large = limit(&request);
    assert!(too_large > 1_000);
    for expected in [too_large / 2, too_large / 4] {
        assert_eq!(page(&bench.once(Input::Replied(Err(CallError::Unknown("no reply in time".into()))))), None);
        assert_eq!((bench.known().len(), bench.mirror.is_reading()), (0, false), "what had come is thrown away");
        bench.now += BACKOFF.1;
        let first = page(&bench.once(Input::Tick)).unwrap();
        assert!(matches!(first, Request::Range { revision: None, .. }), "from the beginning, at a new revision");
        request = page(&bench.reply(&first)).unwrap();
        assert_eq!(limit(&request), expected);
    }
    let mut next = Some(request);
    while let Some(request) = next {
        let asked = page(&bench.reply(&request));
        next = asked.or(bench.read().1);
    }
    assert_eq!(bench.known().len(), MANY, "each key once");
    assert_eq!(bench.mirror.largest_page, too_large / 4 * 2, "the next list dares more");
}

#[test]
fn however_often_a_list_fails_something_is_asked_for() {
    let mut bench = filled(1);
    let mut last = 0;
    for _ in 0..20 {
        bench.now += BACKOFF.1;
        last = limit(&page(&bench.once(Input::Tick)).unwrap());
        bench.once(Input::Replied(Err(CallError::Unreachable("refused".into()))));
    }
    assert_eq!(last, 100);
}
