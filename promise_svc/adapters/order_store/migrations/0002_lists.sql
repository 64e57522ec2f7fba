-- ListReservations reads a range of one of these; state and claim are in neither, so that moves of a
-- reservation stay updates within their page.
CREATE INDEX reservations_owner ON reservations (owner_id, reservation_id);
CREATE INDEX reservations_reference ON reservations (order_reference, reservation_id)
    WHERE order_reference <> '';
