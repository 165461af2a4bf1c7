-- Names and values of the store itself.
create table meta (
  name  text  primary key,
  value bytea not null
);
comment on table  meta       is 'Values of the store itself. A reader needs none of them.';
comment on column meta.name  is 'secret: the first key of the HMACs and seals. keys: all of them, once they were rotated.';
comment on column meta.value is 'The value.';

-- One row for each sign-in attempt.
--
-- home is a hash of app, channel and user. Every row of a user has it, it never
-- changes, and every statement of a sign-in names it: by it the tables can be
-- distributed. Ids begin with their time, so they lead the keys.
--
-- Between its insertion and its end no update of an attempt touches an index: no
-- column that changes meanwhile is in one, nor in the condition of one, since
-- Postgres looks at the columns and not at the rows that an index has. So what
-- changes and is filtered by stands once more in a column that is null until the
-- end (ended_…), and for the sweeper there is wake, a bound below due that seldom
-- moves. Half a page is left free for such updates: attempts of one page are often
-- updated by one statement, and it has to find room beside them. Those that are
-- open are few, and are read through attempts_open.
--
-- What stays as it is stands first and last: of an update that finds room on its
-- page, the server logs what lies between.
create table attempts (
  home              bigint      not null,
  born              timestamptz not null,
  created           timestamptz not null,
  id                text        collate "C" not null,
  app               text        collate "C" not null,
  channel           text        collate "C" not null,
  user_id           text        collate "C" not null,
  connection        text        collate "C" not null,
  connection_key    text        collate "C" not null,
  origin            text        collate "C" not null,
  tenant            text        collate "C" not null,
  user_aad          text        collate "C" not null,
  user_name         text        collate "C" not null,
  conversation_id   text        collate "C" not null,
  conversation_type text        collate "C" not null,
  activity_id       text        collate "C" not null,
  supersedes        text        collate "C" not null,
  version           bigint      not null,
  lines             bigint      not null,
  entered           timestamptz not null,
  ended             timestamptz,
  due               timestamptz,
  wake              timestamptz,
  expires           timestamptz,
  lease_until       timestamptz,
  lease_fence       bigint      not null,
  verify_tries      bigint      not null,
  rounds            bigint      not null,
  invokes           bigint      not null,
  sso_offered       boolean     not null,
  state             text        collate "C" not null,
  method            text        collate "C" not null,
  reason            text        collate "C" not null,
  failure_code      text        collate "C" not null,
  platform          text        collate "C" not null,
  lease_owner       text        collate "C" not null,
  exchange_id       text        collate "C" not null,
  card_activity_id  text        collate "C" not null,
  superseded_by     text        collate "C" not null,
  sso_outcome       text        collate "C" not null,
  token_mark        bytea,
  code_mark         bytea,
  ended_state       text        collate "C" generated always as (case when ended is not null then state end) stored,
  ended_code        text        collate "C" generated always as (case when ended is not null then nullif(failure_code, '') end) stored,
  ended_platform    text        collate "C" generated always as (case when ended is not null then nullif(platform, '') end) stored,
  ended_owner       text        collate "C" generated always as (case when ended is not null then nullif(lease_owner, '') end) stored,
  ended_card        text        collate "C" generated always as (case when ended is not null then nullif(card_activity_id, '') end) stored,
  detail            jsonb       not null,
  request           bytea,
  primary key (id, home),
  check (case when ended is null then state in ('Idle', 'CardSent', 'Exchanging', 'Verifying') else state in ('Complete', 'Failed') end)
) with (fillfactor = 45);

-- What must be: one open attempt for each key.
create unique index attempts_key on attempts (user_id, connection_key, channel, app, home) where ended is null;
-- What the program looks for.
create index attempts_user  on attempts (user_id, id) where ended is not null;
create index attempts_open  on attempts (id) where ended is null;
create index attempts_wake  on attempts (wake) where wake is not null;
create index attempts_ended on attempts (ended) where ended is not null;
-- What people look for.
create index attempts_user_aad         on attempts (lower(user_aad), id) where ended is not null;
create index attempts_state            on attempts (ended_state, id) where ended_state is not null;
create index attempts_method           on attempts (method, id) where method <> '' and ended is not null;
create index attempts_reason           on attempts (reason, id) where reason <> '' and ended is not null;
create index attempts_code             on attempts (ended_code, id) where ended_code is not null;
create index attempts_connection       on attempts (connection_key, id) where ended is not null;
create index attempts_tenant           on attempts (tenant, id) where ended is not null;
create index attempts_conversation_id  on attempts (conversation_id, id) where ended is not null;
create index attempts_platform         on attempts (ended_platform, id) where ended_platform is not null;
create index attempts_owner            on attempts (ended_owner, id) where ended_owner is not null;
create index attempts_card             on attempts (ended_card, id) where ended_card is not null;
create index attempts_activity_id      on attempts (activity_id, id) where activity_id <> '' and ended is not null;

comment on table attempts is 'One row for each sign-in attempt. Read the view signin_attempts_v1; this table may change with every migration.';
comment on column attempts.home              is 'Hash of app, channel and user: what rows are distributed by. It never changes.';
comment on column attempts.version           is '1 at the insertion, one more with every write.';
comment on column attempts.lines             is 'How many audit lines the attempt has.';
comment on column attempts.born              is 'When the row was inserted: its audit lines are in the partition of that week.';
comment on column attempts.created           is 'When the attempt began. The id begins with this time.';
comment on column attempts.entered           is 'When the state was entered.';
comment on column attempts.ended             is 'When a state was entered that nothing leaves; null while the attempt is open.';
comment on column attempts.due               is 'When the sweeper has to look at it; null for never.';
comment on column attempts.wake              is 'A bound below due that is indexed and seldom moves; null for never.';
comment on column attempts.expires           is 'When the attempt expires.';
comment on column attempts.lease_until       is 'Until when lease_owner works on it; null if nobody ever has.';
comment on column attempts.lease_fence       is 'One more with every claim.';
comment on column attempts.verify_tries      is 'Verification codes that were tried.';
comment on column attempts.rounds            is 'Exchange rounds begun.';
comment on column attempts.invokes           is 'Invokes that reached the attempt.';
comment on column attempts.sso_offered       is 'Whether the card offered single sign-on.';
comment on column attempts.id                is 'ULID of created.';
comment on column attempts.app               is 'App id of the bot.';
comment on column attempts.channel           is 'Channel without its sub-channel: msteams.';
comment on column attempts.user_id           is 'MRI of the user: 29:…';
comment on column attempts.connection        is 'Name of the OAuth connection, as registered.';
comment on column attempts.connection_key    is 'The same in lower case, as it is compared.';
comment on column attempts.state             is 'Idle, CardSent, Exchanging, Verifying, Complete or Failed.';
comment on column attempts.origin            is 'How it came into being: signin, adopted, compose, card_action.';
comment on column attempts.method            is 'How it came to Complete; empty before.';
comment on column attempts.reason            is 'Why it came to Failed; empty before.';
comment on column attempts.failure_code      is 'The upstream''s or the client''s own code of the last failure; the rest is in detail.';
comment on column attempts.tenant            is 'Entra tenant of the conversation.';
comment on column attempts.user_aad          is 'Entra object id of the user.';
comment on column attempts.user_name         is 'Name of the user, as the client said it.';
comment on column attempts.conversation_id   is 'Conversation in which the attempt began.';
comment on column attempts.conversation_type is 'personal, groupChat or channel.';
comment on column attempts.platform          is 'Platform of the client that was last heard of.';
comment on column attempts.lease_owner       is 'Instance that worked on it last.';
comment on column attempts.exchange_id       is 'tokenExchangeResource.id of the card.';
comment on column attempts.card_activity_id  is 'Activity id of the card.';
comment on column attempts.activity_id       is 'Id of the activity that opened the attempt.';
comment on column attempts.supersedes        is 'Attempt that this one stands in for.';
comment on column attempts.superseded_by     is 'Attempt that stands in for this one.';
comment on column attempts.sso_outcome       is 'How single sign-on ended: rejected, client_failed:CODE.';
comment on column attempts.token_mark        is 'HMAC of the last SSO token.';
comment on column attempts.code_mark         is 'HMAC of the last verification code.';
comment on column attempts.request           is 'The activity that asked, sealed; null unless it is kept.';
comment on column attempts.detail            is 'Everything else, by the names that the command line uses; what is empty is left out.';
comment on column attempts.ended_state       is 'state, once it has ended: what is indexed must not change before.';
comment on column attempts.ended_code        is 'failure_code, once it has ended.';
comment on column attempts.ended_platform    is 'platform, once it has ended.';
comment on column attempts.ended_owner       is 'lease_owner, once it has ended.';
comment on column attempts.ended_card        is 'card_activity_id, once it has ended.';

-- The audit trail, a row for each line. It is partitioned by the birth of the
-- attempt, so that the lines of an attempt stand together and a week can go when
-- its attempts have gone.
--
-- pos is 65536 times the id of the transaction that wrote the line, plus its
-- place in it. Who follows the trail keeps the snapshot that he has read, and
-- asks for what has become visible since; see trail.go.
create table events (
  born        timestamptz not null,
  at          timestamptz not null,
  home        bigint      not null,
  seq         bigint      not null,
  pos         bigint      not null,
  version     bigint      not null,
  status      bigint      not null,
  duration_us bigint      not null,
  attempt     text        collate "C" not null,
  instance    text        collate "C" not null,
  kind        text        collate "C" not null,
  "row"       text        collate "C" not null,
  from_state  text        collate "C" not null,
  to_state    text        collate "C" not null,
  invoke      text        collate "C" not null,
  activity_id text        collate "C" not null,
  source      text        collate "C" not null,
  code        text        collate "C" not null,
  platform    text        collate "C" not null,
  detail      text        collate "C" not null,
  actor       text        collate "C" not null,
  app         text        collate "C" not null,
  channel     text        collate "C" not null,
  user_id     text        collate "C" not null,
  connection  text        collate "C" not null,
  primary key (attempt, seq, born, home)
) partition by range (born);

create index events_pos    on events (pos);
create index events_orphan on events (at, seq) where attempt = '';
create table events_default partition of events default;

comment on table events is 'The audit trail, a row for each line. Read the view signin_events_v1; this table may change with every migration.';
comment on column events.born        is 'When the attempt''s row was inserted; of a line of no attempt, when the line was.';
comment on column events.at          is 'When it happened.';
comment on column events.home        is 'Hash of app, channel and user: what rows are distributed by.';
comment on column events.seq         is 'Orders the lines of an attempt, from 1; of a line of no attempt, its pos.';
comment on column events.pos         is 'Orders all lines: 65536 times the id of the transaction that wrote it, plus its place in it.';
comment on column events.version     is 'Version of the attempt after a transition.';
comment on column events.status      is 'HTTP status; 0 for none.';
comment on column events.duration_us is 'How long it took, in microseconds.';
comment on column events.attempt     is 'Id of the attempt; empty for lines of no attempt.';
comment on column events.instance    is 'Instance that wrote the line.';
comment on column events.kind        is 'received, transition, upstream, answer, callback, note, operator or security.';
comment on column events."row"       is 'Row of the transition table.';
comment on column events.from_state  is 'State before a transition.';
comment on column events.to_state    is 'State after a transition.';
comment on column events.invoke      is 'Name of the invoke, or of what was called.';
comment on column events.activity_id is 'Id of the activity.';
comment on column events.source      is 'Who failed: client, token_service, connector, credentials.';
comment on column events.code        is 'The upstream''s or the client''s own error code.';
comment on column events.platform    is 'Platform of the client.';
comment on column events.detail      is 'What else is worth knowing, short.';
comment on column events.actor       is 'Who acted, of an operator''s line.';
comment on column events.app         is 'Of a line of no attempt: app id of the bot.';
comment on column events.channel     is 'Of a line of no attempt: the channel.';
comment on column events.user_id     is 'Of a line of no attempt: MRI of the user.';
comment on column events.connection  is 'Of a line of no attempt: the connection.';

-- The outbox: what the bot's handlers are told.
create table deliveries (
  home    bigint      not null,
  created timestamptz not null,
  next_at timestamptz not null,
  tries   bigint      not null,
  round   integer     not null,
  fanout  boolean     not null,
  attempt text        collate "C" not null,
  kind    text        collate "C" not null check (kind in ('complete', 'failure')),
  status  text        collate "C" not null check (status in ('pending', 'delivered', 'dead', 'undeliverable', 'dropped', 'silent')),
  owner   text        collate "C" not null,
  error   text        collate "C" not null,
  failure jsonb,
  refusal jsonb,
  primary key (attempt, kind, round, home)
) with (fillfactor = 80);

create index deliveries_pending on deliveries (next_at) where status = 'pending';
-- Written so that who looks for what is pending, by its time, is not led here.
create index deliveries_owed    on deliveries (attempt, status, home) where status || '' in ('pending', 'dead', 'undeliverable');

comment on table deliveries is 'Callbacks that are owed or were made. Read the view signin_deliveries_v1; this table may change with every migration.';
comment on column deliveries.home    is 'Hash of app, channel and user: what rows are distributed by.';
comment on column deliveries.created is 'When the callback was owed.';
comment on column deliveries.next_at is 'Not to be tried before.';
comment on column deliveries.tries   is 'How often it was tried.';
comment on column deliveries.round   is 'Numbers the callbacks of an attempt, from 1.';
comment on column deliveries.fanout  is 'Whether a failure is told to every registered connection.';
comment on column deliveries.attempt is 'Id of the attempt.';
comment on column deliveries.kind    is 'complete or failure.';
comment on column deliveries.status  is 'pending, delivered, dead, undeliverable, dropped, or silent: not owed.';
comment on column deliveries.owner   is 'Who is trying, until next_at.';
comment on column deliveries.error   is 'What went wrong in the last try.';
comment on column deliveries.failure is 'What the client said, and the handler gets: source, operation, http_status, code, kind, message.';
comment on column deliveries.refusal is 'What an upstream said, in the same members.';

-- Where the exchange id of a card leads. It stands with the attempt.
create table exchange_ids (
  home        bigint not null,
  app         text   collate "C" not null,
  exchange_id text   collate "C" not null,
  attempt     text   collate "C" not null,
  primary key (exchange_id, app, home)
);
create index exchange_ids_attempt on exchange_ids (attempt);

comment on table exchange_ids is 'Which attempt an exchange id leads to.';
comment on column exchange_ids.home        is 'Hash of app, channel and user: what rows are distributed by.';
comment on column exchange_ids.app         is 'App id of the bot.';
comment on column exchange_ids.exchange_id is 'tokenExchangeResource.id of a card.';
comment on column exchange_ids.attempt     is 'Id of the attempt.';

-- Names that are remembered. Some of them let in whoever knows them, so the names
-- themselves are not kept.
create table marks (
  hash    bytea       primary key,
  version bigint      not null,
  created timestamptz not null,
  expires timestamptz,
  value   bytea
);
create index marks_created on marks (created);
create index marks_expires on marks (expires);

comment on table marks is 'Names that are remembered until they are over: handlers that ran once, popups that are open.';
comment on column marks.hash    is 'Hash of the name: what rows are distributed by.';
comment on column marks.version is '1 at the insertion, one more with every write.';
comment on column marks.created is 'When the name was taken.';
comment on column marks.expires is 'When it is over; null: with the retention.';
comment on column marks.value   is 'Sealed by whoever wrote it.';

-- The views are the promise to dashboards and tickets: members are added, none
-- changes its meaning. The names are those of list -o csv and inspect -o json.
create view signin_attempts_v1 as
select
  a.id, a.app, a.channel, a.user_id, a.connection, nullif(a.tenant, '') as tenant, nullif(a.user_aad, '') as user_aad,
  nullif(a.user_name, '') as user_name, a.state, a.version, a.origin, nullif(a.method, '') as method, nullif(a.reason, '') as reason,
  a.sso_offered, nullif(a.sso_outcome, '') as sso_outcome, nullif(a.exchange_id, '') as exchange_id,
  nullif(a.card_activity_id, '') as card_activity_id, nullif(a.activity_id, '') as activity_id, a.detail ->> 'resource_uri' as resource_uri,
  nullif(a.conversation_type, '') as conversation_type, nullif(a.conversation_id, '') as conversation_id, nullif(a.platform, '') as platform,
  a.created, a.entered, a.ended, a.expires, a.due,
  nullif(a.lease_owner, '') as lease_owner, a.lease_fence, a.lease_until, a.lease_until <= now() as lease_expired,
  a.verify_tries, a.rounds, a.invokes, nullif(a.supersedes, '') as supersedes, nullif(a.superseded_by, '') as superseded_by,
  a.detail -> 'failure' ->> 'source' as failure_source, a.detail -> 'failure' ->> 'operation' as failure_operation,
  (a.detail -> 'failure' ->> 'http_status')::integer as failure_http_status, nullif(a.failure_code, '') as failure_code,
  a.detail -> 'failure' ->> 'kind' as failure_kind, a.detail -> 'failure' ->> 'message' as failure_message,
  (a.detail -> 'diagnosis' ->> 'audience')::boolean as sso_token_audience, (a.detail -> 'diagnosis' ->> 'version')::boolean as sso_token_version,
  (a.detail -> 'diagnosis' ->> 'tenant')::boolean as sso_token_tenant, (a.detail -> 'diagnosis' ->> 'user')::boolean as sso_token_user,
  (a.detail -> 'diagnosis' ->> 'client')::boolean as sso_token_client, (a.detail -> 'diagnosis' ->> 'fresh')::boolean as sso_token_fresh,
  (a.detail ->> 'no_sso_until')::timestamptz as no_sso_until,
  coalesce((a.detail ->> 'delivery_unknown')::boolean, false) as delivery_unknown,
  coalesce((a.detail ->> 'popup_closed')::boolean, false) as popup_closed,
  coalesce(d.status, 'none') as callback_status, coalesce(d.tries, 0) as callback_tries,
  a.detail
from attempts a
left join lateral (
  select d.status, d.tries from deliveries d
  where d.home = a.home and d.attempt = a.id
  order by case d.status when 'dead' then 3 when 'pending' then 2 when 'undeliverable' then 1 else 0 end desc, d.round desc, d.kind
  limit 1
) d on true;
comment on view signin_attempts_v1 is 'Attempts, as list -o csv and inspect -o json show them; detail has the members that they do not show.';

create view signin_events_v1 as
select
  nullif(e.attempt, '') as attempt, e.seq, e.at as "time", nullif(e.instance, '') as instance, e.kind, nullif(e."row", '') as "row",
  nullif(e.version, 0) as version, nullif(e.from_state, '') as from_state, nullif(e.to_state, '') as to_state,
  nullif(e.invoke, '') as invoke, nullif(e.activity_id, '') as activity_id, nullif(e.status, 0) as status,
  nullif(e.source, '') as source, nullif(e.code, '') as code, trim_scale(nullif(e.duration_us, 0) / 1000.0) as duration_ms,
  nullif(e.platform, '') as platform, nullif(e.detail, '') as detail, nullif(e.actor, '') as actor,
  nullif(e.app, '') as app, nullif(e.channel, '') as channel, nullif(e.user_id, '') as user_id, nullif(e.connection, '') as connection
from events e;
comment on view signin_events_v1 is 'The audit trail, as inspect -o json shows it. attempt is null for lines of no attempt, which say whom they are about.';

create view signin_deliveries_v1 as
select
  d.attempt || '/' || d.kind || '/' || d.round as key, d.attempt, d.kind, d.round, d.status, d.tries, d.created, d.next_at,
  nullif(d.owner, '') as owner, d.fanout,
  d.failure ->> 'source' as failure_source, d.failure ->> 'operation' as failure_operation, (d.failure ->> 'http_status')::integer as failure_http_status,
  d.failure ->> 'code' as failure_code, d.failure ->> 'kind' as failure_kind, d.failure ->> 'message' as failure_message,
  d.refusal ->> 'source' as refusal_source, d.refusal ->> 'operation' as refusal_operation, (d.refusal ->> 'http_status')::integer as refusal_http_status,
  d.refusal ->> 'code' as refusal_code, d.refusal ->> 'kind' as refusal_kind, d.refusal ->> 'message' as refusal_message,
  nullif(d.error, '') as error
from deliveries d;
comment on view signin_deliveries_v1 is 'Callbacks, as inspect -o json shows them.';
