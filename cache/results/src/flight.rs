//! Single flight: of all who ask the same at the same time, one computes and the others get its
//! answer. It knows nothing of what is stored.
//!
//! A flight is a semaphore of one permit. Whoever holds it leads. A leader that lands closes the
//! semaphore, which wakes all; one that panics, is cancelled or fails on its own account drops the
//! permit, and the one who has waited longest leads next. Tokio's semaphore is fair and safe to
//! cancel, so no wake-up is lost.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::store::Request;

/// What all who board a flight get.
#[derive(Debug, Clone)]
pub(crate) enum Landing<E> {
    Answer(Bytes),
    Failed(E),
}

#[derive(Debug)]
struct Flight<E> {
    turn: Semaphore,
    landing: OnceLock<Landing<E>>,
}

#[derive(Debug)]
struct Boarding<E> {
    flight: Arc<Flight<E>>,
    seats: usize,
}

/// The flights that are in the air, by the whole request: a shared key is not enough.
///
/// The lock guards the table alone; nothing is waited for under it.
#[derive(Debug)]
pub(crate) struct Flights<E> {
    table: Mutex<HashMap<Request, Boarding<E>>>,
    max_table: usize,
    max_seats: usize,
}

/// What one who wants to board is told.
#[derive(Debug)]
pub(crate) enum Gate<'a, E> {
    /// There is a seat.
    Open(Seat<'a, E>),
    /// The flight is full.
    Full { seats: usize },
    /// There are too many flights to begin another.
    NoFlight,
}

/// What one who waited is told.
#[derive(Debug)]
pub(crate) enum Turn<'a, E> {
    /// It is the holder's turn to compute.
    Lead(SemaphorePermit<'a>),
    /// Another has computed.
    Landed(Landing<E>),
    /// It took too long. Whoever asks now begins another flight.
    Late,
}

impl<E: Clone> Flights<E> {
    pub(crate) fn new(max_table: usize, max_seats: usize) -> Self {
        Self { table: Mutex::default(), max_table, max_seats }
    }

    /// Takes a seat on the flight for this very request, which begins if there is none.
    pub(crate) fn board(&self, request: &Request) -> Gate<'_, E> {
        let mut table = self.table.lock();
        let flights = table.len();
        let boarding = match table.entry(request.clone()) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(_) if flights >= self.max_table => return Gate::NoFlight,
            Entry::Vacant(place) => {
                let (turn, landing) = (Semaphore::new(1), OnceLock::new());
                place.insert(Boarding { flight: Arc::new(Flight { turn, landing }), seats: 0 })
            }
        };
        if boarding.seats >= self.max_seats {
            return Gate::Full { seats: boarding.seats };
        }
        boarding.seats += 1;
        let flight = Arc::clone(&boarding.flight);
        Gate::Open(Seat { flights: self, request: request.clone(), flight })
    }

    /// How many flights are in the air.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().len()
    }
}

/// A place on a flight. Dropping the last one ends a flight that has not landed.
#[derive(Debug)]
pub(crate) struct Seat<'a, E> {
    flights: &'a Flights<E>,
    request: Request,
    flight: Arc<Flight<E>>,
}

impl<E: Clone> Seat<'_, E> {
    /// Waits until the flight has landed or it is this one's turn to lead.
    pub(crate) async fn wait(&self, max_wait: Duration) -> Turn<'_, E> {
        match tokio::time::timeout(max_wait, self.flight.turn.acquire()).await {
            Ok(Ok(permit)) => Turn::Lead(permit),
            Ok(Err(_closed)) => {
                // A flight is closed only after it has landed.
                self.flight
                    .landing
                    .get()
                    .map_or(Turn::Late, |landing| Turn::Landed(landing.clone()))
            }
            Err(_elapsed) => {
                self.leave_table();
                Turn::Late
            }
        }
    }

    /// Gives everyone aboard this landing. Who asks from now on begins another flight.
    pub(crate) fn land(&self, landing: Landing<E>) {
        // Only the holder of the one permit lands, and only once.
        let _ = self.flight.landing.set(landing);
        self.leave_table();
        self.flight.turn.close();
    }

    fn leave_table(&self) {
        let mut table = self.flights.table.lock();
        if let Entry::Occupied(place) = table.entry(self.request.clone())
            && Arc::ptr_eq(&place.get().flight, &self.flight)
        {
            place.remove();
        }
    }
}

impl<E> Drop for Seat<'_, E> {
    fn drop(&mut self) {
        let mut table = self.flights.table.lock();
        if let Entry::Occupied(mut place) = table.entry(self.request.clone())
            && Arc::ptr_eq(&place.get().flight, &self.flight)
        {
            place.get_mut().seats -= 1;
            if place.get().seats == 0 {
                place.remove();
            }
        }
    }
}
