/**
 * The names under which a release is published. RELEASE is empty in a checkout; the release workflow writes
 * `owner/name:version` into it before it builds. The same names as in the server's cloud/published.py.
 */
export const RELEASE = '';

/** PyTorch's own image, which many rented hosts have in their cache. */
export const STOCK_IMAGE = 'pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime';

/** The published GPU image of this version; "" where nothing is published. */
export function publishedImage(release: string = RELEASE): string {
	const [repository, version] = release.split(':');
	return version === undefined ? '' : `ghcr.io/${repository.toLowerCase()}:${version}-gpu`;
}
