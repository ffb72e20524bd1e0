-- Two tables whose sums no transaction changes, and the transactions that the load is made of.

CREATE TABLE accounts (
    id      int PRIMARY KEY,
    balance bigint NOT NULL,
    changes int NOT NULL DEFAULT 0,
    kind    text,
    note    text,
    weight  double precision,
    serial  bigint NOT NULL,
    active  boolean,
    at      timestamptz,
    payload text
);
-- Stored apart and not compressed: an update of another column does not stream it.
ALTER TABLE accounts ALTER COLUMN payload SET STORAGE EXTERNAL;

-- A composite key with signs that a careless concatenation would confuse.
CREATE TABLE journal (
    day    text,
    line   int,
    amount bigint NOT NULL,
    PRIMARY KEY (day, line)
);

CREATE SEQUENCE new_ids START 1000001;

-- A token that names one version of one row, for searches. It comes last: what all notes begin with
-- is in a dictionary of terms once, what they end with is not.
CREATE FUNCTION note_of(id int, changes int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'the elephant follows account n' || id || 'x' || changes
$$;

CREATE FUNCTION fill(account_rows int, journal_rows int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO accounts
    SELECT n, 1000, 0,
           (ARRAY['heron', 'stork', 'crane', 'Cattle egret', NULL])[1 + n % 5],
           note_of(n, 0), n / 8.0, 9007199254740993 + n, n % 3 = 0,
           '2024-02-29 12:34:56.789012+00'::timestamptz + n * interval '1 second',
           CASE WHEN n % 40 = 0 THEN repeat(md5(n::text), 100) END
      FROM generate_series(1, account_rows) AS n;
    PERFORM fill_journal(journal_rows, 0);
END $$;

-- Rows whose amounts always have the same sum, under keys that depend on `turn`.
CREATE FUNCTION fill_journal(journal_rows int, turn int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO journal
    SELECT 'day,' || (n + turn) % 7 || '\', n, CASE WHEN n % 2 = 0 THEN turn ELSE 10 - turn END
      FROM generate_series(1, journal_rows) AS n
$$;

-- The row at or after an id, locked. NULL where another transaction has taken it.
CREATE FUNCTION pick(near int, other_than int) RETURNS int LANGUAGE sql AS $$
    SELECT id FROM accounts WHERE id >= near AND id IS DISTINCT FROM other_than
     ORDER BY id LIMIT 1 FOR UPDATE
$$;

CREATE FUNCTION transfer(from_near int, to_near int, amount bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    giver int := pick(from_near, NULL);
    taker int := pick(to_near, giver);
BEGIN
    IF giver IS NULL OR taker IS NULL THEN RETURN; END IF;
    UPDATE accounts SET balance = balance - amount, changes = changes + 1,
           note = note_of(id, changes + 1) WHERE id = giver;
    UPDATE accounts SET balance = balance + amount, changes = changes + 1,
           note = note_of(id, changes + 1) WHERE id = taker;
END $$;

CREATE FUNCTION open_account(from_near int, amount bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    giver int := pick(from_near, NULL);
    opened int := nextval('new_ids');
BEGIN
    IF giver IS NULL THEN RETURN; END IF;
    INSERT INTO accounts (id, balance, kind, note, serial, payload)
    VALUES (opened, amount, 'spoonbill', note_of(opened, 0), -opened,
            CASE WHEN opened % 3 = 0 THEN repeat(md5(opened::text), 100) END);
    UPDATE accounts SET balance = balance - amount WHERE id = giver;
END $$;

CREATE FUNCTION close_account(near int, to_near int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    closed int := pick(near, NULL);
    taker int := pick(to_near, closed);
BEGIN
    IF closed IS NULL OR taker IS NULL THEN RETURN; END IF;
    UPDATE accounts SET balance = balance + (SELECT balance FROM accounts WHERE id = closed)
     WHERE id = taker;
    DELETE FROM accounts WHERE id = closed;
END $$;

-- A key change; what is stored apart goes along without being streamed.
CREATE FUNCTION rename_account(near int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    renamed int := pick(near, NULL);
BEGIN
    UPDATE accounts SET id = nextval('new_ids') WHERE id = renamed;
END $$;

-- One statement that changes many rows and not their sum. Locks first: the second statement then
-- sees what it changes.
CREATE FUNCTION churn(wanted int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    ids int[];
BEGIN
    SELECT array_agg(id) INTO ids
      FROM (SELECT id FROM accounts ORDER BY id LIMIT wanted FOR UPDATE) AS locked;
    UPDATE accounts
       SET balance = balance + CASE WHEN n = cardinality(ids) AND n % 2 = 1 THEN 0
                                    WHEN n % 2 = 0 THEN 7 ELSE -7 END,
           changes = changes + 1, note = note_of(accounts.id, changes + 1)
      FROM unnest(ids) WITH ORDINALITY AS chosen(id, n)
     WHERE accounts.id = chosen.id;
    RETURN cardinality(ids);
END $$;

CREATE FUNCTION rewrite_journal(turn int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    journal_rows int;
BEGIN
    LOCK TABLE journal IN ACCESS EXCLUSIVE MODE;
    SELECT count(*) INTO journal_rows FROM journal;
    TRUNCATE journal;
    PERFORM fill_journal(journal_rows, turn);
END $$;
