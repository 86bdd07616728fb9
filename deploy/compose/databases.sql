-- A database and a login for each service.
CREATE ROLE webhook_gateway LOGIN PASSWORD 'development';
CREATE DATABASE webhook_gateway OWNER webhook_gateway;
CREATE ROLE subscription LOGIN PASSWORD 'development';
CREATE DATABASE subscription OWNER subscription;
CREATE ROLE provisioning LOGIN PASSWORD 'development';
CREATE DATABASE provisioning OWNER provisioning;
CREATE ROLE payouts LOGIN PASSWORD 'development';
CREATE DATABASE payouts OWNER payouts;
CREATE ROLE bank_sync LOGIN PASSWORD 'development';
CREATE DATABASE bank_sync OWNER bank_sync;
CREATE ROLE orders LOGIN PASSWORD 'development';
CREATE DATABASE orders OWNER orders;
CREATE ROLE operations LOGIN PASSWORD 'development';
CREATE DATABASE operations OWNER operations;
