module github.com/matrixrelay/relay/examples

go 1.26.0

require github.com/matrixrelay/relay v0.0.0

replace github.com/matrixrelay/relay => ../
