# A little of all that Perl programs do: hashes, regular expressions, sorting, string building.
use strict;
use warnings;

my ($seed, $sum, %count) = (1, 0);
for my $turn (1 .. $ARGV[0]) {
    my @words;
    for (1 .. 300) {
        $seed = ($seed * 1103515245 + 12345) % 2147483648;
        push @words, join "", map { chr 97 + ($seed >> $_) % 26 } 3, 7, 11, 15;
    }
    $count{substr $_, 0, 2}++ for @words;
    my $text = join " ", sort @words;
    $sum += length $1 while $text =~ /\b([a-m]\w+[n-z])\b/g;
    $text =~ s/([aeiou])(\w)/$2$1/g;
    $sum = ($sum + unpack "%32C*", $text) % 1000003;
}
print "$sum ", join(",", map { "$_$count{$_}" } (sort keys %count)[0 .. 20]), "\n";
