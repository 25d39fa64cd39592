//! Which approved action is done next, how many at once, and how long the line behind them may be. Pure: time is an argument.
//!
//! ```text
//!               ┌ somebody waits for it ┐   of its agents the one            if a place of its kind is free,
//!  approved ──► │                       ├─► of which the fewest are done, ──► and one of all             ──► being done
//!               └ nobody does           ┘   the one not served longest            ▲          │
//!                                                                            wake └─ resting ◄┘ rest
//! ```
//!
//! Whom nobody waits for goes behind whom somebody waits for, with two exceptions. So that it ends some day, it has its turn after
//! [`IN_FRONT`] of the others were begun while it could have been. And so that it is not in the way, it never has more than its share of
//! the places, of those of its kind and of the line: what is left over is for those that somebody waits for.
//!
//! Of an agent's actions of one sort, those of its users take turns ([`super::turns`]).
//!
//! A change of what is configured takes none of the places of all, and waits for none: of its kind alone there are so many. What takes all
//! of them may be what is to be put right, questions to a provider that does not answer; and a right that root takes away has to go while it
//! is being used, not once whoever uses it has ended.
//!
//! Of what writes to an agent's workspace one is done after the other: each begins with what the one before it left, where two at once
//! would find that the file they wrote has changed meanwhile. What only reads, and what others do, goes on beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use paw_policy::{Kind, Name};
use uuid::Uuid;

use super::{
    pace::Pace,
    turns::{Stand, Turns},
};

/// So many that somebody waits for are begun while one could be that nobody waits for; then it is its turn.
pub const IN_FRONT: u32 = 7;

/// Agents of which it is remembered when they were last served, while nothing of theirs is here.
const REMEMBERED: usize = 1_024;

/// Whether somebody waits for an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Somebody stays for it.
    Interactive,
    /// Whoever asked has its id and looks for it later, or a clock asked.
    Background,
}

impl Urgency {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Background];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Background => "background",
        }
    }
}

/// What the queue knows of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Which action.
    pub id: Uuid,
    /// Its kind, which has places of its own.
    pub kind: Kind,
    /// On whose behalf: agents have their turns.
    pub agent: Name,
    /// Who asked for it: among what is of one agent and of one sort, users have theirs.
    pub uid: u32,
    /// Whether somebody waits for it.
    pub urgency: Urgency,
    /// Whether it writes to the agent's workspace.
    pub writes: bool,
    /// When it ends, wherever it stands then.
    pub deadline_ms: Option<u64>,
}

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Being done at once, but for changes of what is configured.
    pub places: usize,
    /// Of each kind: in the order of [`Kind::ALL`].
    pub of_kind: [usize; Kind::ALL.len()],
    /// In line. Who has nothing of the same sort there may always add one.
    pub line: usize,
    /// What nobody waits for may have of each of these, in percent, and at least one.
    pub background: usize,
}

impl Bounds {
    /// What may be had of so many.
    fn share(&self, urgency: Urgency, of: usize) -> usize {
        match urgency {
            Urgency::Interactive => of,
            Urgency::Background => (of.saturating_mul(self.background) / 100).max(1),
        }
    }
}

/// The line is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} actions are waiting, and {running} are being done")]
pub struct Full {
    /// How many wait.
    pub waiting: usize,
    /// How many are being done.
    pub running: usize,
    /// When there will be room, in milliseconds from now, if the line goes on as fast as it did.
    pub again_ms: u64,
}

/// Actions that wait their turn among each other.
type Lane = (Urgency, Name, Kind, bool);

/// Whether one of this kind takes one of the places of all, beside one of its kind.
const fn shares(kind: Kind) -> bool {
    match kind {
        Kind::ConfigChange => false,
        Kind::Chat
        | Kind::ToolCall
        | Kind::ModelSwitch
        | Kind::FileOperation
        | Kind::ApiCall
        | Kind::SecretUse
        | Kind::SkillChange => true,
    }
}

/// How many are being done.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    /// Of those that share the places of all.
    all: usize,
    of_kind: [usize; Kind::ALL.len()],
}

impl Count {
    fn add(&mut self, kind: Kind) {
        self.all += usize::from(shares(kind));
        self.of_kind[kind as usize] += 1;
    }

    fn remove(&mut self, kind: Kind) {
        self.all -= usize::from(shares(kind));
        self.of_kind[kind as usize] -= 1;
    }
}

/// What is known of an agent.
#[derive(Debug, Default, Clone, Copy)]
struct Served {
    /// How many of its actions are being done.
    running: usize,
    /// How many of those write.
    writing: usize,
    /// How many stand in line.
    waiting: usize,
    /// When one was last begun, counted in actions that were.
    turn: u64,
}

/// The line of approved actions and the places that are taken.
#[derive(Debug)]
pub struct Queue {
    bounds: Bounds,
    lanes: BTreeMap<Lane, Turns>,
    /// Where in line each stands.
    waiting: HashMap<Uuid, (Lane, Stand)>,
    running: HashMap<Uuid, Ticket>,
    /// Being done, without a place: they wait for others that need one.
    resting: HashMap<Uuid, Ticket>,
    /// All that hold a place, and those of them that nobody waits for.
    held: Count,
    held_behind: Count,
    waiting_behind: usize,
    /// When those end that have a deadline, and of each the same once more.
    deadlines: BTreeSet<(u64, Uuid)>,
    until: HashMap<Uuid, u64>,
    agents: BTreeMap<Name, Served>,
    /// How many were put in line, and begun.
    arrivals: u64,
    turns: u64,
    /// Begun in front of one that nobody waits for, since one of those was.
    in_front: u32,
    /// How fast the line goes on, and its part that nobody waits for.
    pace: Pace,
    pace_behind: Pace,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lanes: BTreeMap::new(),
            waiting: HashMap::new(),
            running: HashMap::new(),
            resting: HashMap::new(),
            held: Count::default(),
            held_behind: Count::default(),
            waiting_behind: 0,
            deadlines: BTreeSet::new(),
            until: HashMap::new(),
            agents: BTreeMap::new(),
            arrivals: 0,
            turns: 0,
            in_front: 0,
            pace: Pace::default(),
            pace_behind: Pace::default(),
        }
    }

    /// Whether it would have a place at once, or could stand in line for one.
    ///
    /// # Errors
    /// When the line is at its bound.
    pub fn room(&self, ticket: &Ticket, now_ms: u64) -> Result<(), Full> {
        let lane = (
            ticket.urgency,
            ticket.agent.clone(),
            ticket.kind,
            ticket.writes,
        );
        let behind = ticket.urgency == Urgency::Background;
        let all = self.waiting.len() < self.bounds.line;
        let share = self.bounds.share(ticket.urgency, self.bounds.line);
        let own = !behind || self.waiting_behind < share;
        // Nobody can fill the line so that others have no turn at all.
        let has = self.lanes.get(&lane).is_some_and(|it| it.has(ticket.uid));
        if all && own || !has || self.could_take(ticket) {
            return Ok(());
        }
        let pace = if behind {
            &self.pace_behind
        } else {
            &self.pace
        };
        Err(Full {
            waiting: self.waiting.len(),
            running: self.running(),
            again_ms: pace.again(now_ms),
        })
    }

    /// Puts an approved action in line. What was accepted is never refused here: [`Queue::room`] is asked before.
    pub fn push(&mut self, ticket: Ticket) {
        let Ticket {
            id,
            kind,
            agent,
            uid,
            urgency,
            writes,
            deadline_ms,
        } = ticket;
        if self.waiting.contains_key(&id) || self.holds(id) {
            return;
        }
        self.ends_at(id, deadline_ms);
        self.arrivals += 1;
        self.agents.entry(agent.clone()).or_default().waiting += 1;
        self.waiting_behind += usize::from(urgency == Urgency::Background);
        let lane = (urgency, agent, kind, writes);
        let line = self.lanes.entry(lane.clone()).or_default();
        let stand = line.add(self.arrivals, id, uid);
        self.waiting.insert(id, (lane, stand));
    }

    /// The next action that has a place now. It holds the place until [`Queue::done`].
    pub fn pop(&mut self, now_ms: u64) -> Option<Uuid> {
        // Time in which nobody stands in line is none in which it did not go on.
        if self.waiting.is_empty() {
            self.pace.rest();
        }
        if self.waiting_behind == 0 {
            self.pace_behind.rest();
        }
        let lane = self.next()?;
        let (id, uid) = self.lanes.get(&lane)?.first()?.0;
        match lane.0 {
            Urgency::Background => self.in_front = 0,
            Urgency::Interactive if self.next_of(Urgency::Background).is_some() => {
                self.in_front += 1;
            }
            Urgency::Interactive => {}
        }
        self.leave(id, now_ms, true);
        let (urgency, agent, kind, writes) = lane;
        self.begin(Ticket {
            id,
            kind,
            agent,
            uid,
            urgency,
            writes,
            deadline_ms: self.until.get(&id).copied(),
        });
        Some(id)
    }

    /// Gives this action a place now, if one is free and nobody in line could have it. It holds the place until [`Queue::done`].
    pub fn take(&mut self, ticket: &Ticket) -> bool {
        let free = !self.holds(ticket.id)
            && !self.waiting.contains_key(&ticket.id)
            && self.could_take(ticket);
        if free {
            self.ends_at(ticket.id, ticket.deadline_ms);
            self.begin(ticket.clone());
        }
        free
    }

    /// Gives a place to an action that is being done already. It may be one more than there are: what runs is not ended for it.
    pub fn resume(&mut self, ticket: Ticket) {
        if !self.holds(ticket.id) && !self.waiting.contains_key(&ticket.id) {
            self.ends_at(ticket.id, ticket.deadline_ms);
            self.begin(ticket);
        }
    }

    /// An action that is being done waits for others and lends its place to them: if those who wait kept theirs, those they wait for
    /// might never get one.
    pub fn rest(&mut self, id: Uuid) {
        if let Some(ticket) = self.running.remove(&id) {
            self.free(&ticket);
            self.resting.insert(id, ticket);
        }
    }

    /// It goes on, and has a place again, as [`Queue::resume`] gives one.
    pub fn wake(&mut self, id: Uuid) {
        if let Some(ticket) = self.resting.remove(&id) {
            self.hold(ticket);
        }
    }

    /// When the next of them ends, in line or being done.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// One that has passed its deadline, and whether it is being done: then it holds its place until [`Queue::done`]; else it stands in line
    /// no more. Each is told once.
    pub fn overdue(&mut self, now_ms: u64) -> Option<(Uuid, bool)> {
        let (at, id) = *self.deadlines.first()?;
        if at > now_ms {
            return None;
        }
        self.endless(id);
        let is_begun = self.holds(id);
        if !is_begun {
            self.leave(id, now_ms, false);
        }
        Some((id, is_begun))
    }

    fn ends_at(&mut self, id: Uuid, deadline_ms: Option<u64>) {
        if let Some(at) = deadline_ms {
            self.until.insert(id, at);
            self.deadlines.insert((at, id));
        }
    }

    /// It has no deadline any more.
    fn endless(&mut self, id: Uuid) {
        if let Some(at) = self.until.remove(&id) {
            self.deadlines.remove(&(at, id));
        }
    }

    /// Gives back the place of an action, or takes it out of the line.
    pub fn done(&mut self, id: Uuid, now_ms: u64) {
        self.endless(id);
        if let Some(ticket) = self.running.remove(&id) {
            self.free(&ticket);
        } else if self.resting.remove(&id).is_none() {
            self.leave(id, now_ms, false);
        }
    }

    /// Other bounds, from now on. Places that are taken beyond them are given back as their actions end.
    pub const fn resize(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// How many are being done, those included that rest.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len() + self.resting.len()
    }

    /// How many stand in line.
    #[must_use]
    pub fn waiting(&self, urgency: Urgency) -> usize {
        match urgency {
            Urgency::Interactive => self.waiting.len() - self.waiting_behind,
            Urgency::Background => self.waiting_behind,
        }
    }

    /// Whether it is being done, with a place or resting.
    fn holds(&self, id: Uuid) -> bool {
        self.running.contains_key(&id) || self.resting.contains_key(&id)
    }

    fn could_take(&self, ticket: &Ticket) -> bool {
        self.is_free(ticket.urgency, ticket.kind)
            && self.may_write(&ticket.agent, ticket.writes)
            && self.next().is_none()
    }

    /// Whether nobody writes where this would.
    fn may_write(&self, agent: &Name, writes: bool) -> bool {
        !writes || self.agents.get(agent).is_none_or(|it| it.writing == 0)
    }

    fn is_free(&self, urgency: Urgency, kind: Kind) -> bool {
        let (bounds, at) = (&self.bounds, kind as usize);
        let within = |held: &Count, urgency| {
            (!shares(kind) || held.all < bounds.share(urgency, bounds.places))
                && held.of_kind[at] < bounds.share(urgency, bounds.of_kind[at])
        };
        within(&self.held, Urgency::Interactive)
            && match urgency {
                Urgency::Interactive => true,
                Urgency::Background => within(&self.held_behind, urgency),
            }
    }

    /// Whose turn it is.
    fn next(&self) -> Option<Lane> {
        let turns = if self.in_front < IN_FRONT {
            [Urgency::Interactive, Urgency::Background]
        } else {
            [Urgency::Background, Urgency::Interactive]
        };
        turns.into_iter().find_map(|urgency| self.next_of(urgency))
    }

    fn next_of(&self, urgency: Urgency) -> Option<Lane> {
        if self.waiting(urgency) == 0 {
            return None;
        }
        let lanes = self.lanes.iter();
        let could = lanes.filter(|((of, agent, kind, writes), _)| {
            *of == urgency && self.is_free(*of, *kind) && self.may_write(agent, *writes)
        });
        let rank = |(_, agent, _, _): &Lane, line: &Turns| {
            let served = self.agents.get(agent).copied().unwrap_or_default();
            let first = line.first().map(|(_, arrival)| arrival);
            // Of one agent's kinds, the one that waits longest.
            (served.running, served.turn, first)
        };
        could
            .min_by_key(|(lane, line)| rank(lane, line))
            .map(|(lane, _)| lane.clone())
    }

    fn begin(&mut self, ticket: Ticket) {
        self.turns += 1;
        self.agents.entry(ticket.agent.clone()).or_default().turn = self.turns;
        self.hold(ticket);
    }

    fn hold(&mut self, ticket: Ticket) {
        self.held.add(ticket.kind);
        if ticket.urgency == Urgency::Background {
            self.held_behind.add(ticket.kind);
        }
        let agent = self.agents.entry(ticket.agent.clone()).or_default();
        agent.running += 1;
        agent.writing += usize::from(ticket.writes);
        self.running.insert(ticket.id, ticket);
    }

    /// The place of one that was being done is free.
    fn free(&mut self, ticket: &Ticket) {
        self.held.remove(ticket.kind);
        if ticket.urgency == Urgency::Background {
            self.held_behind.remove(ticket.kind);
        }
        if let Some(agent) = self.agents.get_mut(&ticket.agent) {
            agent.running -= 1;
            agent.writing -= usize::from(ticket.writes);
        }
        self.forget();
    }

    fn leave(&mut self, id: Uuid, now_ms: u64, is_served: bool) {
        let Some((lane, stand)) = self.waiting.remove(&id) else {
            return;
        };
        if let Some(line) = self.lanes.get_mut(&lane) {
            line.remove(stand, is_served);
            if line.is_empty() {
                self.lanes.remove(&lane);
            }
        }
        self.pace.step(now_ms);
        if lane.0 == Urgency::Background {
            self.waiting_behind -= 1;
            self.pace_behind.step(now_ms);
        }
        if self.waiting_behind == 0 {
            self.in_front = 0;
        }
        if let Some(agent) = self.agents.get_mut(&lane.1) {
            agent.waiting -= 1;
        }
        self.forget();
    }

    /// Who has nothing here is forgotten only when they are many: an agent that is forgotten is served as if it never was, so one that
    /// comes and goes would always be before one that stays in line.
    fn forget(&mut self) {
        if self.agents.len() > REMEMBERED {
            self.agents
                .retain(|_, served| served.running + served.waiting > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOBODY: Urgency = Urgency::Background;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn ticket(number: u128, agent: &str, kind: Kind, urgency: Urgency) -> Ticket {
        Ticket {
            id: id(number),
            kind,
            agent: agent.parse().unwrap(),
            uid: 1_000,
            urgency,
            writes: false,
            deadline_ms: None,
        }
    }

    fn write(number: u128, agent: &str) -> Ticket {
        Ticket {
            writes: true,
            ..tool(number, agent)
        }
    }

    fn chat(number: u128, agent: &str) -> Ticket {
        ticket(number, agent, Kind::Chat, Urgency::Interactive)
    }

    fn behind(number: u128, agent: &str) -> Ticket {
        ticket(number, agent, Kind::Chat, NOBODY)
    }

    fn tool(number: u128, agent: &str) -> Ticket {
        ticket(number, agent, Kind::ToolCall, Urgency::Interactive)
    }

    /// So many places, of each kind so many, and so long a line.
    fn bounds(places: usize, of_kind: usize, line: usize) -> Bounds {
        Bounds {
            places,
            of_kind: [of_kind; Kind::ALL.len()],
            line,
            background: 75,
        }
    }

    /// One place, and a line of these.
    fn one_place(tickets: impl IntoIterator<Item = Ticket>) -> Queue {
        let mut queue = Queue::new(bounds(1, 1, 1_000));
        tickets.into_iter().for_each(|ticket| queue.push(ticket));
        queue
    }

    /// Begins one after the other, each when the one before has ended.
    fn order(queue: &mut Queue) -> Vec<u128> {
        let mut begun = Vec::new();
        while let Some(next) = queue.pop(0) {
            begun.push(next.as_u128());
            queue.done(next, 0);
        }
        begun
    }

    #[test]
    fn nobody_is_given_a_place_before_those_in_line() {
        let mut queue = Queue::new(bounds(2, 2, 2));
        assert!(queue.take(&chat(1, "a")));
        queue.push(chat(2, "a"));
        assert!(!queue.take(&chat(3, "a")), "somebody stands in line for it");
        assert_eq!(queue.pop(0), Some(id(2)));
        assert!(!queue.take(&chat(3, "a")), "there is none");
        queue.done(id(1), 0);
        assert!(queue.take(&chat(3, "a")));
        assert!(!queue.take(&chat(3, "a")), "it has one");
        assert_eq!(queue.running(), 2);
    }

    fn of_user(number: u128, uid: u32) -> Ticket {
        Ticket {
            uid,
            ..chat(number, "a")
        }
    }

    #[test]
    fn users_of_an_agent_take_turns_however_much_one_has_in_line() {
        let mut queue = one_place((1..=6).map(|number| of_user(number, 1)));
        queue.push(of_user(7, 2));
        queue.push(of_user(8, 2));
        queue.push(of_user(9, 3));
        assert_eq!(order(&mut queue), [1, 7, 9, 2, 8, 3, 4, 5, 6]);
    }

    #[test]
    fn who_comes_back_at_once_is_not_always_before_who_waits() {
        let mut queue = one_place((1..=3).map(|number| of_user(number, 1)));
        queue.push(of_user(10, 2));
        let mut begun = Vec::new();
        for back in 11..=14 {
            let next = queue.pop(0).unwrap();
            begun.push(next.as_u128());
            if next.as_u128() >= 10 {
                queue.push(of_user(back, 2));
            }
            queue.done(next, 0);
        }
        assert_eq!(begun, [1, 10, 2, 12]);
    }

    #[test]
    fn line_that_one_user_has_filled_has_room_for_another_one() {
        let mut queue = Queue::new(bounds(1, 1, 3));
        assert!(queue.take(&of_user(1, 1)));
        (2..=4).for_each(|number| queue.push(of_user(number, 1)));
        assert!(queue.room(&of_user(5, 1), 0).is_err());
        assert!(queue.room(&of_user(6, 2), 0).is_ok());
        queue.push(of_user(6, 2));
        assert!(queue.room(&of_user(7, 2), 0).is_err());
    }

    #[test]
    fn kind_whose_places_are_taken_holds_up_no_other() {
        let mut queue = Queue::new(bounds(4, 2, 8));
        (1..=3).for_each(|number| queue.push(chat(number, "a")));
        let begun = [queue.pop(0), queue.pop(0), queue.pop(0)];
        assert_eq!(begun, [Some(id(1)), Some(id(2)), None]);
        assert!(queue.take(&tool(4, "a")));
        queue.push(tool(5, "a"));
        assert_eq!(queue.pop(0), Some(id(5)));
        assert!(!queue.take(&tool(6, "a")));
        queue.done(id(4), 0);
        assert_eq!(queue.pop(0), None, "no place for a chat");
        queue.done(id(1), 0);
        assert_eq!(queue.pop(0), Some(id(3)));
    }

    #[test]
    fn change_of_what_is_configured_waits_for_its_own_kind_alone_and_holds_up_no_other() {
        let change = |number, urgency| ticket(number, "a", Kind::ConfigChange, urgency);
        let mut queue = Queue::new(bounds(1, 1, 4));
        assert!(queue.take(&chat(1, "a")));
        queue.push(chat(2, "a"));
        assert!(
            queue.take(&change(3, Urgency::Interactive)),
            "the chat has no end"
        );
        queue.push(change(4, NOBODY));
        assert_eq!(queue.pop(0), None, "there is one place of its kind");
        queue.done(id(3), 0);
        assert_eq!(queue.pop(0), Some(id(4)));
        queue.done(id(1), 0);
        assert_eq!(queue.pop(0), Some(id(2)), "it took none of the others");
        assert_eq!(queue.running(), 2);
    }

    #[test]
    fn what_writes_to_one_workspace_is_done_one_after_the_other() {
        let mut queue = Queue::new(bounds(8, 8, 8));
        (1..=3).for_each(|number| queue.push(write(number, "a")));
        queue.push(write(4, "b"));
        queue.push(tool(5, "a"));
        let mut begun: Vec<_> = std::iter::from_fn(|| queue.pop(0)).collect();
        begun.sort();
        assert_eq!(
            begun,
            [id(1), id(4), id(5)],
            "others, and what reads, wait for nobody"
        );
        assert!(!queue.take(&write(6, "a")), "one of its agent's writes");
        assert!(queue.take(&tool(7, "a")));
        queue.done(id(5), 0);
        assert_eq!(queue.pop(0), None);
        queue.done(id(1), 0);
        assert_eq!(queue.pop(0), Some(id(2)));
        queue.done(id(2), 0);
        assert_eq!(queue.pop(0), Some(id(3)));
        // One that an earlier life began is gone on with, whoever writes; the next waits for both.
        queue.resume(write(8, "a"));
        queue.push(write(9, "a"));
        queue.done(id(3), 0);
        assert_eq!(queue.pop(0), None);
        queue.done(id(8), 0);
        assert_eq!(queue.pop(0), Some(id(9)));
    }

    #[test]
    fn agent_with_a_long_line_does_not_keep_others_waiting() {
        let flood = (1..=5).map(|number| chat(number, "busy"));
        let others = [chat(6, "other"), chat(7, "third"), chat(8, "other")];
        let mut queue = one_place(flood.chain(others));
        assert_eq!(order(&mut queue), [1, 6, 7, 2, 8, 3, 4, 5]);
    }

    #[test]
    fn agents_that_come_and_go_are_not_before_one_that_stays() {
        let mut queue = one_place((1..=3).map(|number| chat(number, "stays")));
        let mut begun = Vec::new();
        let (mut next, mut turns) = (10, ["b", "c"].into_iter().cycle());
        queue.push(chat(next, turns.next().unwrap()));
        for _ in 0..6 {
            // One of them is always here, and gone when it was served.
            next += 1;
            queue.push(chat(next, turns.next().unwrap()));
            let one = queue.pop(0).unwrap();
            begun.push(one.as_u128());
            queue.done(one, 0);
        }
        let stays: Vec<_> = begun.iter().filter(|number| **number <= 3).collect();
        assert!(stays.len() >= 2, "{begun:?}");
    }

    #[test]
    fn what_somebody_waits_for_is_first_and_the_rest_has_its_turn() {
        let nobody = (1..=2).map(|number| behind(number, "a"));
        let mut queue = one_place(nobody.chain((10..30).map(|number| chat(number, "a"))));
        let begun = order(&mut queue);
        let at = |number| begun.iter().position(|it| *it == number);
        assert_eq!((at(10), at(1), at(2)), (Some(0), Some(7), Some(15)));
    }

    #[test]
    fn what_nobody_waits_for_leaves_places_to_the_others() {
        let mut queue = Queue::new(bounds(8, 4, 100));
        (1..=10).for_each(|number| queue.push(behind(number, "a")));
        let begun = std::iter::from_fn(|| queue.pop(0)).count();
        assert_eq!(begun, 3, "three quarters of four places for chats");
        assert!(queue.take(&chat(20, "a")), "one is left");
        assert_eq!(queue.waiting(NOBODY), 7);
        let calls = (30..=40).map(|number| ticket(number, "a", Kind::ToolCall, NOBODY));
        calls.for_each(|ticket| queue.push(ticket));
        let begun = std::iter::from_fn(|| queue.pop(0)).count();
        assert_eq!(begun, 3, "three quarters of eight are six");
    }

    #[test]
    fn line_that_is_full_says_so_and_has_room_for_who_has_nothing_there() {
        let mut queue = Queue::new(bounds(1, 1, 4));
        assert!(queue.take(&chat(1, "a")));
        (2..=4).for_each(|number| queue.push(behind(number, "a")));
        let full = queue.room(&behind(5, "a"), 0).unwrap_err();
        assert_eq!((full.waiting, full.running), (3, 1));
        assert_eq!(queue.room(&behind(5, "b"), 0), Ok(()));
        queue.push(chat(6, "a"));
        assert!(queue.room(&chat(7, "a"), 0).is_err());
        assert_eq!(queue.room(&chat(7, "b"), 0), Ok(()));
        assert_eq!(queue.room(&tool(7, "a"), 0), Ok(()));
        queue.done(id(1), 0);
        assert_eq!(queue.pop(0), Some(id(6)));
        assert_eq!(queue.room(&chat(7, "a"), 0), Ok(()));
    }

    #[test]
    fn when_to_ask_again_is_when_the_line_goes_on() {
        let mut queue = one_place((1..=1_001).map(|number| chat(number, "a")));
        for turn in 1..=100 {
            let one = queue.pop(turn * 700).unwrap();
            queue.done(one, turn * 700);
        }
        (2_001..=2_100).for_each(|number| queue.push(chat(number, "a")));
        let full = queue.room(&chat(9_999, "a"), 100 * 700).unwrap_err();
        assert_eq!(full.again_ms, 700);
        let held_up = queue
            .room(&chat(9_999, "a"), 100 * 700 + 5_000)
            .unwrap_err();
        assert_eq!(held_up.again_ms, 5_000, "nothing went on for so long");
    }

    #[test]
    fn who_waits_for_others_lends_them_its_place() {
        let mut queue = Queue::new(bounds(1, 1, 2));
        assert!(queue.take(&chat(1, "a")));
        queue.push(chat(2, "a"));
        assert_eq!(queue.pop(0), None);
        queue.rest(id(1));
        assert_eq!(queue.pop(0), Some(id(2)));
        assert_eq!(queue.running(), 2);
        queue.wake(id(1));
        queue.push(chat(3, "a"));
        queue.done(id(2), 0);
        assert_eq!(queue.pop(0), None, "it has its place again");
        queue.rest(id(1));
        queue.done(id(1), 0);
        queue.wake(id(1));
        assert_eq!(queue.pop(0), Some(id(3)));
        assert_eq!(queue.running(), 1);
    }

    #[derive(Debug, Clone)]
    enum Command {
        Push(Sort),
        Take(Sort),
        Resume(Sort),
        Pop,
        Rest(usize),
        Wake(usize),
        End(usize),
        Overdue,
        Leave(usize),
        Later(u64),
        Resize(usize, usize, usize),
    }

    #[derive(Debug, Clone, Copy)]
    struct Sort {
        agent: usize,
        user: u32,
        kind: Kind,
        behind: bool,
        writes: bool,
        deadline_ms: Option<u64>,
    }

    impl Sort {
        fn ticket(self, number: u128) -> Ticket {
            let urgency = if self.behind {
                NOBODY
            } else {
                Urgency::Interactive
            };
            Ticket {
                writes: self.writes,
                deadline_ms: self.deadline_ms,
                uid: 1_000 + self.user,
                ..ticket(number, ["a", "b", "c"][self.agent], self.kind, urgency)
            }
        }
    }

    fn command() -> impl Strategy<Value = Command> {
        let sort = || {
            (
                0..3_usize,
                0..3_u32,
                prop::sample::select(vec![Kind::Chat, Kind::ToolCall, Kind::ConfigChange]),
                any::<bool>(),
                any::<bool>(),
                prop::option::of(0..3_000_u64),
            )
                .prop_map(|(agent, user, kind, behind, writes, deadline_ms)| Sort {
                    agent,
                    user,
                    kind,
                    behind,
                    writes,
                    deadline_ms,
                })
        };
        prop_oneof![
            8 => sort().prop_map(Command::Push),
            2 => sort().prop_map(Command::Take),
            1 => sort().prop_map(Command::Resume),
            8 => Just(Command::Pop),
            2 => any::<usize>().prop_map(Command::Rest),
            2 => any::<usize>().prop_map(Command::Wake),
            5 => any::<usize>().prop_map(Command::End),
            3 => Just(Command::Overdue),
            1 => any::<usize>().prop_map(Command::Leave),
            2 => (0..600_u64).prop_map(Command::Later),
            1 => (1..6_usize, 1..6_usize, 1..12_usize).prop_map(|(a, b, c)| Command::Resize(a, b, c)),
        ]
    }

    /// What there is, kept as plainly as can be.
    struct Seen {
        bounds: Bounds,
        line: Vec<Ticket>,
        running: Vec<Ticket>,
        resting: Vec<Ticket>,
        ever: BTreeMap<Uuid, u32>,
        in_front: u32,
        /// Those that were told to be over their deadline.
        over: BTreeSet<Uuid>,
    }

    impl Seen {
        /// When those end that are here and were not told to be over it.
        fn deadlines(&self) -> impl Iterator<Item = u64> {
            let all = self.line.iter().chain(&self.running).chain(&self.resting);
            let untold = all.filter(|it| !self.over.contains(&it.id));
            untold.filter_map(|it| it.deadline_ms)
        }

        /// What is told to be over its deadline is, and leaves the line.
        fn overdue(&mut self, (id, is_begun): (Uuid, bool), now: u64) -> Result<(), TestCaseError> {
            let of = |all: &[Ticket]| all.iter().find(|it| it.id == id).cloned();
            let found = if is_begun {
                of(&self.running).or_else(|| of(&self.resting))
            } else {
                of(&self.line)
            };
            let deadline = found.and_then(|it| it.deadline_ms);
            prop_assert!(deadline.is_some_and(|at| at <= now), "its time has come");
            prop_assert!(self.over.insert(id), "it is told once");
            self.line.retain(|it| it.id != id);
            Ok(())
        }

        fn held(&self, of: impl Fn(&Ticket) -> bool) -> usize {
            self.running.iter().filter(|it| of(it)).count()
        }

        fn could(&self, ticket: &Ticket) -> bool {
            let (bounds, kind) = (&self.bounds, ticket.kind);
            let of_kind = bounds.of_kind[kind as usize];
            let of_all = |it: &Ticket| it.kind != Kind::ConfigChange;
            let any = (!of_all(ticket) || self.held(of_all) < bounds.places)
                && self.held(|it| it.kind == kind) < of_kind;
            let share = |of: usize| (of * bounds.background / 100).max(1);
            let alone =
                !ticket.writes || self.held(|it| it.writes && it.agent == ticket.agent) == 0;
            any && alone
                && (ticket.urgency != NOBODY
                    || (!of_all(ticket)
                        || self.held(|it| it.urgency == NOBODY && of_all(it))
                            < share(bounds.places))
                        && self.held(|it| it.urgency == NOBODY && it.kind == kind) < share(of_kind))
        }

        fn any_could(&self, urgency: Urgency) -> bool {
            let of = self.line.iter().filter(|it| it.urgency == urgency);
            of.into_iter().any(|it| self.could(it))
        }

        /// What was begun had to be begun next; nothing waits in vain.
        fn begun(&mut self, begun: Option<Uuid>) -> Result<(), TestCaseError> {
            let (now, behind) = (self.any_could(Urgency::Interactive), self.any_could(NOBODY));
            let Some(begun) = begun else {
                prop_assert!(!now && !behind, "a place is free for one that waits");
                return Ok(());
            };
            let at = self.line.iter().position(|it| it.id == begun);
            prop_assert!(at.is_some(), "it waited");
            let one = self.line[at.unwrap()].clone();
            prop_assert!(self.could(&one), "there is a place for it");
            if one.urgency == NOBODY {
                prop_assert!(!now || self.in_front == IN_FRONT, "it was not its turn");
                self.in_front = 0;
            } else if behind {
                self.in_front += 1;
                prop_assert!(self.in_front <= IN_FRONT, "others had their turn");
            }
            let running = |agent: &Name| self.held(|it| it.agent == *agent);
            let peers: Vec<&Ticket> = self
                .line
                .iter()
                .filter(|it| it.urgency == one.urgency)
                .collect();
            for other in peers.iter().filter(|it| self.could(it)) {
                prop_assert!(
                    running(&one.agent) <= running(&other.agent),
                    "an agent with less done waits"
                );
            }
            let same = |it: &&&Ticket| {
                (&it.agent, it.kind, it.writes, it.uid)
                    == (&one.agent, one.kind, one.writes, one.uid)
            };
            prop_assert_eq!(
                peers.iter().find(same).map(|it| it.id),
                Some(begun),
                "of one user, first come, first served"
            );
            self.line.remove(at.unwrap());
            self.nobody_in_front();
            self.run(one)
        }

        fn nobody_in_front(&mut self) {
            if !self.line.iter().any(|it| it.urgency == NOBODY) {
                self.in_front = 0;
            }
        }

        fn run(&mut self, one: Ticket) -> Result<(), TestCaseError> {
            let times = self.ever.entry(one.id).or_default();
            *times += 1;
            prop_assert_eq!(*times, 1, "each is begun once");
            self.running.push(one);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_begun_twice_and_each_has_its_turn(commands in prop::collection::vec(command(), 1..200)) {
            let first = bounds(4, 3, 8);
            let mut queue = Queue::new(first);
            let mut seen = Seen { bounds: first, line: Vec::new(), running: Vec::new(), resting: Vec::new(), ever: BTreeMap::new(), in_front: 0, over: BTreeSet::new() };
            let (mut next, mut now) = (0_u128, 0_u64);
            let which = |from: &[Ticket], at: usize| (!from.is_empty()).then(|| at % from.len().max(1));
            for command in commands {
                next += 1;
                match command {
                    Command::Push(sort) => {
                        let ticket = sort.ticket(next);
                        if queue.room(&ticket, now).is_ok() {
                            queue.push(ticket.clone());
                            queue.push(ticket.clone());
                            seen.line.push(ticket);
                        } else {
                            let alike = |it: &&Ticket| (it.urgency, &it.agent, it.kind, it.writes, it.uid) == (ticket.urgency, &ticket.agent, ticket.kind, ticket.writes, ticket.uid);
                            prop_assert!(seen.line.iter().find(alike).is_some(), "who has nothing in line has room");
                        }
                    }
                    Command::Take(sort) => {
                        let ticket = sort.ticket(next);
                        let free = seen.could(&ticket) && !seen.any_could(Urgency::Interactive) && !seen.any_could(NOBODY);
                        prop_assert_eq!(queue.take(&ticket), free);
                        if free {
                            seen.run(ticket)?;
                        }
                    }
                    Command::Resume(sort) => {
                        queue.resume(sort.ticket(next));
                        seen.run(sort.ticket(next))?;
                    }
                    Command::Pop => seen.begun(queue.pop(now))?,
                    Command::Rest(at) => if let Some(at) = which(&seen.running, at) {
                        let one = seen.running.remove(at);
                        queue.rest(one.id);
                        seen.resting.push(one);
                    },
                    Command::Wake(at) => if let Some(at) = which(&seen.resting, at) {
                        let one = seen.resting.remove(at);
                        queue.wake(one.id);
                        seen.running.push(one);
                    },
                    Command::End(at) => {
                        let from = if at % 3 == 0 { &mut seen.resting } else { &mut seen.running };
                        if let Some(at) = which(from, at) {
                            let one = from.remove(at);
                            queue.done(one.id, now);
                            queue.done(one.id, now);
                        }
                    }
                    Command::Overdue => {
                        while let Some(told) = queue.overdue(now) {
                            seen.overdue(told, now)?;
                        }
                        prop_assert!(seen.deadlines().all(|at| at > now), "each was told");
                    }
                    Command::Leave(at) => if let Some(at) = which(&seen.line, at) {
                        queue.done(seen.line.remove(at).id, now);
                    },
                    Command::Later(ms) => now += ms,
                    Command::Resize(places, of_kind, line) => {
                        seen.bounds = bounds(places, of_kind, line);
                        queue.resize(seen.bounds);
                    }
                }
                seen.nobody_in_front();
                prop_assert_eq!(queue.next_deadline(), seen.deadlines().min());
                let of = |urgency| seen.line.iter().filter(|it| it.urgency == urgency).count();
                prop_assert_eq!(queue.running(), seen.running.len() + seen.resting.len());
                prop_assert_eq!(Urgency::ALL.map(|it| queue.waiting(it)), Urgency::ALL.map(of));
            }
            // Whatever was done before, all that waits is begun once the others end.
            while !seen.line.is_empty() {
                for one in seen.running.drain(..).chain(seen.resting.drain(..)) {
                    queue.done(one.id, now);
                }
                let begun = queue.pop(now);
                prop_assert!(begun.is_some(), "it is never begun");
                seen.begun(begun)?;
            }
        }
    }
}
