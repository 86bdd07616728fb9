"""Status queries for payments whose webhook has not arrived."""
