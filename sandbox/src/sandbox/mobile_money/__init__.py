"""Stand-ins for Fapshi, MTN MoMo, Orange Money and Flutterwave."""
