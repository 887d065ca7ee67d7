module enforcer/tests/programs/go

go 1.19
