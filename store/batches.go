package store

import "context"

// Batches is an ability that stores may have beside Store, for a caller that has
// much mail for one destination that must stay in order.
type Batches interface {
	// PutAll puts mails, which have one destination, as Put would without limits,
	// one after the other, but with one commit for all of them if it can. Copies
	// store nothing. It returns nil only once all of them would survive a power
	// cut; after an error none, all or the first of them may be stored, and
	// putting them again is safe. It is meant for some dozens at a time.
	//
	// As with Put, the store may read Body and Proof after an early return.
	PutAll(ctx context.Context, mails []Mail) error
}
