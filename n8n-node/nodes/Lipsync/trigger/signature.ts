/**
 * Checks that a POST comes from the server that holds the key: `Lipsync-Signature: t=<unix seconds>,v1=<hex>`, where
 * hex is the HMAC-SHA256 of "<t>." and the body.
 *
 * A signature whose time is far from now is refused, so that a recorded POST cannot be sent again later. Within that
 * time the trigger asks the server whether the delivery is still open.
 */
import { createHmac, timingSafeEqual } from 'crypto';

export const LARGEST_AGE_S = 300;

export function isSigned(
	header: unknown,
	body: Buffer,
	key: string,
	nowS = Date.now() / 1000,
): boolean {
	const found = /^t=(\d{1,12}),v1=([0-9a-f]{64})$/.exec(String(header));
	if (found === null || Math.abs(nowS - Number(found[1])) > LARGEST_AGE_S) return false;
	const expected = createHmac('sha256', key).update(`${found[1]}.`).update(body).digest();
	return timingSafeEqual(Buffer.from(found[2], 'hex'), expected);
}
