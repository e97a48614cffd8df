-- A role for the site and the watcher that can't change the audit trail, nor any table itself.
-- Run it as the owner of the tables, the role that runs `manage.py migrate`, after each migration:
--
--   CREATE ROLE registry_admin_web LOGIN PASSWORD '…';   -- once, by whoever may
--   psql "$OWNER_DATABASE_URL" --file deploy/postgresql-roles.sql
--
-- Then give the site and the watcher a DATABASE_URL of registry_admin_web, and keep the owner's for migrations.
GRANT USAGE ON SCHEMA public TO registry_admin_web;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO registry_admin_web;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO registry_admin_web;

-- Rows of the trail are added only. DELETE is for retention: a trigger refuses it for what is younger than 30 days.
REVOKE UPDATE, TRUNCATE ON inventory_auditevent, inventory_historicalservice, inventory_historicalinstance
    FROM registry_admin_web;

-- A run is completed once it has ended, and a halt once somebody has confirmed it: triggers refuse the rest.
REVOKE UPDATE, TRUNCATE ON inventory_syncrun, inventory_evictionhalt, inventory_healthtransition, django_admin_log
    FROM registry_admin_web;
GRANT UPDATE (outcome, planned, seconds, message, items, registered, updated, deregistered, evicted, failed)
    ON inventory_syncrun TO registry_admin_web;
GRANT UPDATE (ended_at, instances, total, confirmed_at, confirmed_by) ON inventory_evictionhalt TO registry_admin_web;
GRANT UPDATE (before) ON inventory_healthtransition TO registry_admin_web;

-- Which migrations have run is the owner's word.
REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM registry_admin_web;
