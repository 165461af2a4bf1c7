-- Names and values of the store itself: its random key.
create table meta (
  name  text primary key,
  value bytea not null
);

-- One row per sign-in attempt. record is the whole of it; the other columns are
-- what is searched for. facets is what people filter by without an index, in
-- one column, since it is written with every step and seldom read: app, channel,
-- user, connection, method, reason, failure code, tenant, conversation,
-- platform, instance, with a unit separator behind each: split_part(facets,
-- e'\x1f', 3) is the user.
--
-- home is the user's hash at insertion and never changes: with it the rows of
-- an attempt stay together when the tables are distributed.
-- due is when the sweeper looks at it, wake a bound below due that is indexed
-- and seldom moves, so that an update need not touch an index. Half a page is
-- left free for that: attempts of one page are often updated by one statement,
-- and it has to find room beside them.
create table attempts (
  user_hash    bytea       not null,
  id           text        collate "C" not null,
  key_hash     bytea       not null,
  home         bytea       not null,
  version      bigint      not null,
  state        text        collate "C" not null,
  facets       text        collate "C" not null,
  user_aad     text        collate "C" not null,
  created      timestamptz not null,
  entered      timestamptz not null,
  ended        timestamptz,
  due          timestamptz,
  wake         timestamptz,
  born         timestamptz not null,
  lines        bigint      not null,
  record       bytea       not null,
  primary key (id, user_hash),
  check (case when ended is null then state in ('Idle', 'CardSent', 'Exchanging', 'Verifying') else state in ('Complete', 'Failed') end)
) with (fillfactor = 45);

create unique index attempts_open on attempts (user_hash, key_hash) where ended is null;
create index attempts_user on attempts (user_hash, id) where ended is not null;
create index attempts_wake on attempts (wake) where wake is not null;
create index attempts_aad on attempts (user_aad) where user_aad <> '';
create index attempts_ended on attempts (ended) where ended is not null;
create index attempts_time on attempts using brin (created, born) with (pages_per_range = 16, autosummarize = on);

-- The audit trail: all lines of one commit about one attempt share a row, seq
-- is that of the last. attempt is empty for lines of no attempt, each in a row
-- of its own. Partitioned by the birth of the attempt, so that its lines stand
-- together and a partition can go when its attempts have gone.
create table events (
  born    timestamptz not null,
  home    bytea       not null,
  attempt text        collate "C" not null,
  seq     bigint      not null,
  at      timestamptz not null,
  lines   bytea       not null
) partition by range (born);

create index events_attempt on events (attempt, seq);
create index events_orphan on events (at) where attempt = '';
create table events_default partition of events default;

-- The number of the last line of no attempt.
create table orphans (last bigint not null);
insert into orphans values (0);

-- The outbox. What a try changes (status, tries, owner, next_at, error) counts as
-- its column says; record is the whole of the row as it was written last.
create table deliveries (
  home    bytea       not null,
  attempt text        collate "C" not null,
  kind    text        collate "C" not null check (kind in ('complete', 'failure')),
  round   integer     not null,
  status  text        not null check (status in ('pending', 'delivered', 'dead', 'undeliverable', 'dropped', 'silent')),
  tries   bigint      not null,
  owner   text        not null,
  created timestamptz not null,
  next_at timestamptz not null,
  error   text        not null,
  record  bytea       not null,
  primary key (home, attempt, kind, round)
) with (fillfactor = 80);

create index deliveries_pending on deliveries (next_at) where status = 'pending';
create index deliveries_given_up on deliveries (status, attempt) where status in ('dead', 'undeliverable');

-- Where an exchange id of a card leads: hash of app and id, to attempt.
create table exchange_ids (
  hash    bytea primary key,
  home    bytea not null,
  attempt text  collate "C" not null
);

create index exchange_ids_attempt on exchange_ids (attempt);

-- Names that are remembered, under a hash of the name, with a value or without.
create table marks (
  hash    bytea       primary key,
  version bigint      not null,
  created timestamptz not null,
  expires timestamptz,
  value   bytea
);

create index marks_created on marks (created);
create index marks_expires on marks (expires);
