//! The full list: all hosts anew, beside the view that stands meanwhile.

use std::time::Duration;

use rand::Rng;

use super::{
    super::call::{Header, KeyValue, Revision, Why},
    BACKWARDS, Call, Effect, Mirror, Proof,
    contents::Contents,
    pages::Pages,
};

/// From asking for a page to having the next one, at most; else the list begins anew. A call takes 2 s, so this process has
/// stood still, and meanwhile etcd may have gone back and come to the same revision once more, with something else.
const PAGES_WITHIN: Duration = Duration::from_secs(10);

/// A list that is not complete yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) pages: Pages,
    /// When the last page was asked for, and the one before.
    asked_at: [Duration; 2],
    /// Where etcd had been when it was asked for: a write of ours may overtake the reply.
    reached: Revision,
    /// etcd was further then, and we have come to believe that it went back.
    is_behind: bool,
    contents: Contents,
}

impl Mirror {
    /// Begins a list; etcd had been at `reached`.
    pub(super) fn begin_list(&mut self, now: Duration, reached: Revision, effects: &mut Vec<Effect>) {
        let (pages, contents) = (self.first_page(effects), Contents::default());
        self.call =
            Some(Call::List(Box::new(Draft { pages, asked_at: [now; 2], reached, is_behind: false, contents })));
    }

    pub(super) fn take_page(
        &mut self,
        now: Duration,
        mut draft: Box<Draft>,
        header: Header,
        kvs: Vec<KeyValue>,
        more: bool,
        rng: &mut impl Rng,
    ) {
        if now > draft.asked_at[1] + PAGES_WITHIN {
            let why = "a list was interrupted for so long that etcd may be another one since";
            return self.fail(now, Why::Overtaken(why.into()), rng);
        }
        match draft.pages.at() {
            Some(at) if at.cluster != header.cluster => {
                return self.fail(now, Why::Overtaken("another cluster answered in the middle of a list".into()), rng);
            }
            Some(_) => {}
            None => {
                let (found, reached) = (header.revision, draft.reached);
                draft.is_behind = self.view.listed && header.cluster == self.view.cluster && found < reached;
                if draft.is_behind && self.backwards + 1 < BACKWARDS {
                    self.backwards += 1;
                    let reason = format!("etcd is at revision {found}, but was at {reached}: restored from a backup?");
                    return self.fail(now, Why::Overtaken(reason), rng);
                }
            }
        }
        self.heard_at = now;
        draft.pages.take(header, kvs, more);
        self.call = Some(Call::List(draft));
    }

    /// Goes on with a list: asks for its next page, and decodes a piece of what has come.
    pub(super) fn list_on(
        &mut self,
        now: Duration,
        mut draft: Box<Draft>,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        let is_known = draft.pages.at().is_some_and(|at| at.cluster == self.view.cluster) && !draft.is_behind;
        let known = is_known.then_some(&self.contents);
        for kv in draft.pages.piece() {
            draft.contents.list(&self.keys, kv, &mut self.interner, known);
        }
        // On its way while the next pieces are decoded.
        if let Some(page) = draft.pages.ask(self.largest_page) {
            draft.asked_at = [now, draft.asked_at[0]];
            effects.push(page);
        }
        match draft.pages.end() {
            Some(at) => self.take_list(now, at, draft.is_behind, draft.contents, rng, effects),
            None => self.call = Some(Call::List(draft)),
        }
    }

    /// Swaps in a list that is complete.
    fn take_list(
        &mut self,
        now: Duration,
        at: Header,
        is_behind: bool,
        mut contents: Contents,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        if is_behind || self.backwards > 0 || self.view.listed && at.cluster != self.view.cluster {
            effects.push(Effect::Touched(0));
            self.held.hold(now, &self.own, &self.contents, &contents);
            self.reached = at.revision;
            (self.wrote, self.echo) = (Proof::default(), Proof::default());
        } else {
            self.held.compare(now, &self.contents, &contents);
            self.reached = self.reached.max(at.revision);
        }
        // What was written before is in the list; what was written since proves the next watch. Where etcd went back, nobody
        // knows of a write whether it was before or after that.
        self.wrote.see(at.revision, now);
        self.echo.see(at.revision, now);
        self.held.carry(&self.contents, &mut contents);
        contents.share_with(&self.view);
        self.contents = contents;
        self.must_list = false;
        self.backwards = 0;
        self.failures = 0;
        self.doubted = false;
        self.not_before = now;
        self.dare_more();
        self.status.relists += 1;
        self.status.last_error = None;
        self.listed_at = now;
        self.compare_later(now, rng);
        self.publish(at);
    }
}
