package main

import (
	"net/netip"
	"strings"
)

// A prefixList is a pflag.Value: addresses and networks.
type prefixList []netip.Prefix

// String implements pflag.Value.
func (l *prefixList) String() string { return strings.Join(l.values(), ",") }

// values implements several.
func (l *prefixList) values() (texts []string) {
	for _, p := range *l {
		texts = append(texts, p.String())
	}
	return texts
}

// Set implements pflag.Value. Several lists add up.
func (l *prefixList) Set(s string) error {
	for text := range strings.SplitSeq(s, ",") {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, addressErr := netip.ParseAddr(text)
			if addressErr != nil {
				return err
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		*l = append(*l, p.Masked())
	}
	return nil
}

// Type implements pflag.Value.
func (*prefixList) Type() string { return "list" }
