package client

import "time"

// SetWall gives a Receiver another clock, before it is used.
func SetWall(r *Receiver, wall func() time.Time) {
	r.calendar = newCalendar(wall, r.config.KeyPatience)
}
