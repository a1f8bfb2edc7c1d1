package bounded

// Of the files that the process may open, an eighth is kept for the store, outgoing
// connections, metrics and the operator, and at least so many.
const (
	reservedPart  = 8
	leastReserved = 64
)

// Fit raises the limit of open files of this process, as far as it may, and returns how
// many connections a server may take and how many requests may wait on them: as many as
// are asked for, or fewer, so that files are left for everything else, and connections
// for requests that don't wait. Negative connections are as many as there may be. It is
// for the start of a program. Where no limit of files is known, there are as many
// connections as are asked for.
func Fit(connections, waiting int) (fittedConnections, fittedWaiting int) {
	if connections < 0 {
		connections = noLimit
	}
	files, known := openFiles()
	if !known {
		files = noLimit
	}
	return fit(files, connections, waiting)
}

// fit leaves a sixth of the connections to requests that don't wait.
func fit(files uint64, connections, waiting int) (fittedConnections, fittedWaiting int) {
	if files < noLimit {
		connections = min(connections, max(1, int(files)-max(int(files)/reservedPart, leastReserved)))
	}
	return connections, min(waiting, max(1, connections/6*5))
}
