// Package defaults fills in what options leave out. All options have one rule:
// zero is the default, and a negative number is none, or no limit.
package defaults

// Set gives an option its default if it is zero.
func Set[T comparable](option *T, otherwise T) {
	var zero T
	if *option == zero {
		*option = otherwise
	}
}
