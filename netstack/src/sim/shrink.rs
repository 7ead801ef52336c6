//! Makes a plan that fails smaller, for as long as it fails.

use super::plan::{Answer, FlowPlan, LimitsPlan, LinkPlan, Plan, What};

/// The smallest plan that was found to fail, in at most `runs` runs. `fails` says whether one does.
pub fn shrink(plan: Plan, runs: usize, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let mut smallest = plan;
    let mut left = runs;
    loop {
        let mut progress = false;
        let mut step = 0;
        while let Some(smaller) = nth(&smallest, step) {
            if left == 0 {
                return smallest;
            }
            // What makes no difference is not tried.
            if smaller == smallest {
                step += 1;
                continue;
            }
            left -= 1;
            if fails(&smaller) {
                // The same step again: of a list, the next has taken the place of the one that went.
                smallest = smaller;
                progress = true;
            } else {
                step += 1;
            }
        }
        if !progress {
            return smallest;
        }
    }
}

/// The plan after step number `n`; large steps come first.
fn nth(plan: &Plan, mut n: usize) -> Option<Plan> {
    let mut smaller = plan.clone();
    let mut is_next = |count: usize| {
        let here = n < count;
        if !here {
            n -= count;
        }
        here.then_some(n)
    };
    if let Some(n) = is_next(plan.flows.len()) {
        remove_flow(&mut smaller, n);
    } else if let Some(n) = is_next(plan.datagrams.len()) {
        smaller.datagrams.remove(n);
    } else if let Some(n) = is_next(plan.troubles.len()) {
        smaller.troubles.remove(n);
    } else if let Some(n) = is_next(plan.guests.len()) {
        remove_guest(&mut smaller, n);
    } else if let Some(n) = is_next(5) {
        let link = &mut smaller.link;
        match n {
            0 => *link = LinkPlan::default(),
            1 => link.lost = 0,
            2 => link.doubled = 0,
            3 => link.late = 0,
            _ => link.damaged = 0,
        }
    } else if let Some(n) = is_next(6) {
        let limits = &mut smaller.limits;
        match n {
            0 => *limits = LimitsPlan::default(),
            1 => limits.flows = None,
            2 => limits.opening = None,
            3 => limits.held = None,
            4 => limits.mappings = None,
            _ => limits.neighbours = None,
        }
    } else if let Some(n) = is_next(3) {
        match n {
            0 => smaller.least = 0,
            1 => smaller.least /= 2,
            _ => smaller.latency = 50,
        }
    } else if let Some(n) = is_next(plan.flows.len() * FLOW_STEPS) {
        simplify_flow(&mut smaller.flows[n / FLOW_STEPS], n % FLOW_STEPS);
    } else if let Some(n) = is_next(plan.datagrams.len() * 2) {
        let datagrams = &mut smaller.datagrams[n / 2];
        match n % 2 {
            0 => datagrams.count = (datagrams.count / 2).max(1),
            _ => datagrams.size = (datagrams.size / 2).max(5),
        }
    } else if let Some(n) = is_next(plan.troubles.len() * 2) {
        let trouble = &mut smaller.troubles[n / 2];
        *(if n % 2 == 0 { &mut trouble.at } else { &mut trouble.lasts }) /= 2;
    } else if let Some(n) = is_next(plan.guests.len() * 4) {
        let guest = &mut smaller.guests[n / 4];
        match n % 4 {
            0 => guest.offloads = false,
            1 => guest.segments = false,
            2 => guest.capacity = 256,
            _ => {
                guest.mtu = 1500;
                smaller.datagrams.iter_mut().for_each(|datagrams| datagrams.size = datagrams.size.min(1400));
            }
        }
    } else {
        return None;
    }
    Some(smaller)
}

const FLOW_STEPS: usize = 15;

fn simplify_flow(flow: &mut FlowPlan, step: usize) {
    let peer = &mut flow.peer;
    match step {
        0 => flow.up = 0,
        1 => flow.down = 0,
        2 => flow.up /= 2,
        3 => flow.down /= 2,
        4 => flow.reset = None,
        5 => flow.inbound = false,
        6 => flow.v6 = false,
        7 => flow.starts = 0,
        8 => peer.reads = None,
        9 => peer.delay = 0,
        10 => (peer.begins_after, flow.guest_begins_after) = (0, 0),
        11 => (peer.closes_last, flow.guest_closes_last) = (false, false),
        12 => peer.answer = Answer::Accepts,
        13 => (peer.send_queue, peer.receive_queue) = (128 << 10, 128 << 10),
        _ => flow.buffer = 64_000,
    }
}

fn remove_flow(plan: &mut Plan, gone: usize) {
    plan.flows.remove(gone);
    plan.troubles.retain_mut(|trouble| match &mut trouble.what {
        What::Take(flow, _) | What::Queue(flow, _) | What::Deaf(flow) => {
            let stays = *flow != gone;
            *flow -= usize::from(*flow > gone);
            stays
        }
        _ => true,
    });
}

/// Removes a guest together with all that is about it, unless it is the last.
fn remove_guest(plan: &mut Plan, gone: usize) {
    if plan.guests.len() == 1 {
        return;
    }
    plan.guests.remove(gone);
    let gone = gone as u8;
    let renumber = |guest: &mut u8| {
        let stays = *guest != gone;
        *guest -= u8::from(*guest > gone);
        stays
    };
    for index in (0..plan.flows.len()).rev() {
        if plan.flows[index].guest == gone {
            remove_flow(plan, index);
        } else {
            renumber(&mut plan.flows[index].guest);
        }
    }
    plan.datagrams.retain_mut(|datagrams| renumber(&mut datagrams.guest));
    plan.troubles.retain_mut(|trouble| match &mut trouble.what {
        What::Stall(guest) | What::Narrow(guest, _) | What::Unplug(guest) | What::Reboot(guest) => renumber(guest),
        _ => true,
    });
}
