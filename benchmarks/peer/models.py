from django.db import models


class ProcessedEvent(models.Model):
    event_id = models.TextField(primary_key=True)
    received_at = models.DateTimeField(auto_now_add=True)


class Customer(models.Model):
    provider_customer_id = models.TextField(unique=True)
    email = models.TextField(null=True)
    name = models.TextField(null=True)
    version = models.IntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)


class Plan(models.Model):
    provider_plan_id = models.TextField(unique=True)
    name = models.TextField(null=True)
    amount = models.BigIntegerField(null=True)
    currency = models.TextField(null=True)
    interval = models.TextField(null=True)


class Subscription(models.Model):
    provider_subscription_id = models.TextField(unique=True)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    plan = models.ForeignKey(Plan, null=True, on_delete=models.PROTECT)
    status = models.TextField()
    current_period_end = models.DateTimeField(null=True)
    cancel_at_period_end = models.BooleanField(default=False)
    version = models.IntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)


class OutboxMessage(models.Model):
    routing_key = models.TextField()
    body = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)


class Payout(models.Model):
    reference = models.TextField(unique=True)
    destination = models.TextField()
    amount = models.BigIntegerField()
    currency = models.TextField()
    status = models.TextField()
    transfer_id = models.TextField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)


class BankTransaction(models.Model):
    transaction_id = models.TextField(primary_key=True)
    account = models.TextField()
    amount = models.BigIntegerField()
    currency = models.TextField(null=True)
    date = models.DateField()
    name = models.TextField()
    merchant = models.TextField(null=True)
    pending = models.BooleanField()
    category = models.TextField(null=True)
